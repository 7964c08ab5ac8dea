// Package vmpi reads the configuration of vmpi 0.3 (".vmpirc.json", ".vmpirc.yaml", ".vmpirc.yml" and
// five environment variables).
//
// Such a file lies in a project, or in a folder above it, so a stranger or a guest may have written
// it. A run takes memory, CPUs and packages from it, as from ".aivm.toml" (internal/projectfile), and
// remarks on every other key. "aivm setup --import FILE" takes what the user has seen and confirmed
// over into the config: Import computes the changes, and writes nothing.
//
// docs/from-vmpi.md has a row for everything that vmpi's manual names; TestManual compares the two.
package vmpi
