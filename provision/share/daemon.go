package share

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// Served reports whether a process of this machine serves the VM's folders:
// virtiofsd, started by libvirt with the export root on its command line. known
// is false where the processes of others cannot be seen (hidepid).
func (f HostFacts) Served() (served, known bool) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if filepath.Dir(p) == "/proc/1" {
			known = len(b) > 0
		}
		argv := bytes.Split(bytes.TrimRight(b, "\x00"), []byte{0})
		if !strings.Contains(filepath.Base(string(argv[0])), "virtiofsd") {
			continue
		}
		for _, a := range argv[1:] {
			// "-o source=DIR" of the C daemon, "--shared-dir DIR" of the Rust one,
			// both with more options behind a comma at times.
			_, v, ok := strings.Cut(string(a), "=")
			if !ok {
				v = string(a)
			}
			if v, _, _ = strings.Cut(v, ","); v == f.ExportPath && runsAsRoot(filepath.Dir(p)) {
				return true, true
			}
		}
	}
	return false, known
}

// runsAsRoot reports whether a process is root's by all its user ids. Names and
// arguments are whatever the user who started it wrote.
func runsAsRoot(proc string) bool {
	b, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			return strings.Join(strings.Fields(ids), " ") == "0 0 0 0"
		}
	}
	return false
}
