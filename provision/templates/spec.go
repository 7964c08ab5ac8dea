package templates

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/image"
)

// Options are the settings of "aivm setup" from the command line; zero values mean: as in the config.
type Options struct {
	Name     string // --template
	Image    string
	Packages []string
	// SetPackages: --packages is given, so an empty list means none.
	SetPackages bool
	Script      string // a path
	SetScript   bool
	MemoryMB    int
	CPUs        int
	DiskGB      int
	Upgrade     bool
	Debug       io.Writer // receives what the VM prints; nil: only the progress is shown
}

// Spec describes what a template is built from.
type Spec struct {
	Name     string   `json:"name"`
	Image    string   `json:"image"` // as the config or --image names it
	Packages []string `json:"packages,omitempty"`
	// Script is the path on this machine, ScriptSHA256 the digest of the text that runs in the VM.
	Script       string `json:"script,omitempty"`
	ScriptSHA256 string `json:"script_sha256,omitempty"`
	MemoryMB     int    `json:"memory_mb"`
	CPUs         int    `json:"cpus"`
	DiskGB       int    `json:"disk_gb"`

	text []byte // of the script
}

// The sizes of a template for which neither a flag nor the config has a value.
const (
	defaultMemoryMB = 2048
	defaultCPUs     = 4
	defaultDiskGB   = 16
	minMemoryMB     = 256
	minDiskGB       = 4
	maxDiskGB       = 2048
	maxPackages     = 200
	maxScript       = 1 << 20
)

// machineSize is what a template's sizes are checked against.
type machineSize struct {
	CPUs, MemoryMB int // MemoryMB 0: unknown
}

// newSpec combines the flags with the template's section in the config, and returns the section with
// the flags. It refuses values that no VM of this machine can have.
func newSpec(o Options, c *config.Config, m machineSize) (Spec, config.Template, error) {
	if o.Name == "" {
		o.Name = c.Run.Template
	}
	if o.Name == "" {
		o.Name = config.DefaultTemplate
	}
	if err := config.ValidateTemplateName(o.Name); err != nil {
		return Spec{}, config.Template{}, err
	}
	t, _ := c.TemplateNamed(o.Name)
	if o.Image != "" {
		t.Image = o.Image
	}
	if o.SetPackages {
		t.Packages = o.Packages
	}
	if o.SetScript {
		t.Script = o.Script
	}
	for _, v := range []struct {
		to   *int
		flag int
	}{{&t.MemoryMB, o.MemoryMB}, {&t.CPUs, o.CPUs}, {&t.DiskGB, o.DiskGB}} {
		if v.flag != 0 {
			*v.to = v.flag
		}
	}
	s := Spec{Name: o.Name, Image: t.Image, Script: t.Script, MemoryMB: t.MemoryMB, CPUs: t.CPUs, DiskGB: t.DiskGB}
	s.Packages = slices.Clone(t.Packages)
	slices.Sort(s.Packages)
	s.Packages = slices.Compact(s.Packages)
	if s.Image == "" {
		s.Image = image.KindAuto
	}
	s.chooseSizes(m)
	return s, t, s.check(m)
}

// chooseSizes sets the sizes that are 0.
func (s *Spec) chooseSizes(m machineSize) {
	if s.MemoryMB == 0 {
		s.MemoryMB = defaultMemoryMB
		if m.MemoryMB > 0 {
			s.MemoryMB = max(512, min(s.MemoryMB, m.MemoryMB/2/128*128))
		}
	}
	if s.CPUs == 0 {
		s.CPUs = max(1, min(defaultCPUs, m.CPUs))
	}
	if s.DiskGB == 0 {
		s.DiskGB = defaultDiskGB
	}
}

func (s Spec) check(m machineSize) error {
	switch {
	case s.MemoryMB < minMemoryMB:
		return ui.Usage("%d MB of memory are too few for a VM", s.MemoryMB).Hint(ui.Remark("the least is --memory 256; the default is 2048"))
	case m.MemoryMB > 0 && s.MemoryMB > m.MemoryMB:
		return ui.Usage("%d MB of memory, and this machine has %d", s.MemoryMB, m.MemoryMB)
	case s.CPUs < 1 || m.CPUs > 0 && s.CPUs > m.CPUs:
		return ui.Usage("%d CPUs, and this machine has %d", s.CPUs, m.CPUs)
	case s.DiskGB < minDiskGB || s.DiskGB > maxDiskGB:
		return ui.Usage("a disk of %d GB: use %d to %d", s.DiskGB, minDiskGB, maxDiskGB)
	case len(s.Packages) > maxPackages:
		return ui.Usage("%d packages are named: %d at most", len(s.Packages), maxPackages).Hint(ui.Remark("use --script for more"))
	}
	for _, p := range s.Packages {
		if err := config.ValidatePackage(p); err != nil {
			return err
		}
	}
	return nil
}

// withScript returns s with the text of its script.
func (s Spec) withScript(expand func(string) string) (Spec, error) {
	if s.Script == "" {
		return s, nil
	}
	path, err := filepath.Abs(expand(s.Script))
	if err != nil {
		return s, ui.Failed("the script %s: %w", ui.Clean(s.Script), err)
	}
	b, err := readScript(path)
	if err != nil {
		return s, err
	}
	sum := sha256.Sum256(b)
	s.Script, s.text, s.ScriptSHA256 = path, b, hex.EncodeToString(sum[:])
	return s, nil
}

func readScript(path string) ([]byte, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ui.Refused("there is no script %s", ui.Clean(path)).Hint(ui.Remark("--script takes a file of this machine; it runs in the VM"))
	case err != nil:
		return nil, ui.Refused("the script cannot be read: %w", err).Hint(ui.Cmd("ls -l " + shellescape.Quote(path)))
	case !st.Mode().IsRegular():
		return nil, ui.Refused("the script %s is not a regular file", ui.Clean(path)).Hint(ui.Cmd("ls -ld " + shellescape.Quote(path)))
	case st.Size() > maxScript:
		return nil, ui.Refused("the script %s is larger than 1 MiB", ui.Clean(path))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, ui.Refused("the script cannot be read: %w", err).Hint(ui.Cmd("ls -l " + shellescape.Quote(path)))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxScript))
	if err == nil && len(b) == 0 {
		err = ui.Refused("the script %s is empty", ui.Clean(path))
	}
	return b, err
}
