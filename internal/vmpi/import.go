package vmpi

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/projectfile"
	"aivm.dev/aivm/internal/ui"
)

// A Change is one key of the config that an import sets.
type Change struct {
	Key  string // "run.memory_mb"
	From string // of the file: "memory"
	To   string // the value in TOML notation
	set  func(c *config.Config)
}

// String returns the change as a line of the config, with its source.
func (c Change) String() string { return ui.Clean(c.Key + " = " + c.To + "  (" + c.From + ")") }

// Imported is what a file means for the config: what is set, and a remark for each key that has
// another or no counterpart.
type Imported struct {
	File    string
	Changes []Change
	Remarks []string
}

// Apply makes the changes in c.
func (i Imported) Apply(c *config.Config) {
	for _, ch := range i.Changes {
		ch.set(c)
	}
}

// Load reads a file of vmpi for an import. Unlike a run, an import fails if it cannot be read.
func Load(path string) (File, error) {
	f, err := Read(path)
	var se *syntaxError
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, fs.ErrNotExist):
		return f, ui.Refused("there is no file %s", path).Hint(ui.Remark("vmpi's files are " + strings.Join(Names, ", ")))
	case errors.As(err, &se):
		return f, ui.Refused("%s:%d: %s", path, se.line, ui.Clean(se.message))
	}
	return f, ui.Refused("cannot read %s: %w", path, err)
}

// Import computes what the file f and the variables of vmpi mean for the config c. It is pure: it
// reads only its arguments. A variable has priority over its key, as in vmpi.
func Import(f File, c config.Config, getenv func(string) string) Imported {
	i := importer{Imported: Imported{File: f.Path}, have: c}
	for _, w := range f.Wrong {
		i.Remarks = append(i.Remarks, w.String())
	}
	i.sizes(f, getenv)
	i.packages(f)
	i.network(f)
	i.secrets(f)
	i.paths(f, getenv)
	return i.Imported
}

type importer struct {
	Imported
	have config.Config
}

func (i *importer) remark(format string, args ...any) {
	i.Remarks = append(i.Remarks, ui.CleanTo(fmt.Sprintf(format, args...), 400))
}

// sizes takes memory and CPUs over.
func (i *importer) sizes(f File, getenv func(string) string) {
	var w projectfile.Wants
	var o projectfile.Options
	from := map[string]string{"memory": "memory", "cpus": "cpus"}
	if f.Memory.line > 0 {
		w.SetMemory(f.Path, f.Memory.line, "memory", f.Memory.scalar, o)
	}
	if f.CPUs.line > 0 {
		w.SetCPUs(f.Path, f.CPUs.line, "cpus", f.CPUs.scalar, o)
	}
	env := Project("/", Options{Options: o, UID: -1, Getenv: getenv})
	if env.MemoryMB > 0 {
		from["memory"], w.MemoryMB = "VMPI_MEMORY", env.MemoryMB
	}
	if env.CPUs > 0 {
		from["cpus"], w.CPUs = "VMPI_CPUS", env.CPUs
	}
	for _, g := range slices.Concat(w.Ignored, env.Ignored) {
		i.Remarks = append(i.Remarks, g.String())
	}
	if n := w.MemoryMB; n > 0 && n != i.have.Run.MemoryMB {
		i.change("run.memory_mb", from["memory"], fmt.Sprint(n), func(c *config.Config) { c.Run.MemoryMB = n })
	}
	if n := w.CPUs; n > 0 && n != i.have.Run.CPUs {
		i.change("run.cpus", from["cpus"], fmt.Sprint(n), func(c *config.Config) { c.Run.CPUs = n })
	}
}

func (i *importer) change(key, from, to string, set func(c *config.Config)) {
	i.Changes = append(i.Changes, Change{Key: key, From: from, To: to, set: set})
}

// packages adds the packages to the template that runs use.
func (i *importer) packages(f File) {
	name := i.have.Run.Template
	if name == "" {
		name = config.DefaultTemplate
	}
	t, _ := i.have.TemplateNamed(name)
	names, renamed := debianNames(f.GuestPackages)
	var added []string
	for _, n := range names {
		switch {
		case config.ValidatePackage(n) != nil:
			i.remark("guestPackages: %q is not a package name", n)
		case !slices.Contains(t.Packages, n):
			added = append(added, n)
		}
	}
	for _, r := range renamed {
		i.remark("guestPackages: %s", r)
	}
	if len(added) == 0 {
		return
	}
	all := slices.Concat(t.Packages, added)
	quoted := make([]string, len(all))
	for j, n := range all {
		quoted[j] = fmt.Sprintf("%q", n)
	}
	i.change("templates."+name+".packages", "guestPackages", "["+strings.Join(quoted, ", ")+"]", func(c *config.Config) {
		t, _ := c.TemplateNamed(name)
		for _, n := range added {
			if !slices.Contains(t.Packages, n) {
				t.Packages = append(t.Packages, n)
			}
		}
		c.UpsertTemplate(t)
	})
}

// network explains the keys below network: aivm has no rules by name yet.
func (i *importer) network(f File) {
	switch f.Policy {
	case "allow-all":
		i.remark("network.policy: aivm run --net open allows every public address, and no address of this machine or its networks")
	case "deny-all":
		i.remark("network.policy: a run of aivm has no network card unless --net open is given")
	}
	const later = "not taken over: aivm run has no rules by name yet; they are planned as [egress]. A run has no network card; --net open allows every public address"
	if len(f.Providers) > 0 {
		i.remark("network.providers (%s): %s", strings.Join(f.Providers, ", "), later)
	}
	if len(f.AllowedDomains) > 0 {
		i.remark("network.allowedDomains (%s): %s", strings.Join(f.AllowedDomains, ", "), later)
	}
	for _, s := range f.LocalServices {
		i.remark("network.localServices (%s:%d): not taken over: a run reaches no service of this machine; planned as [egress] services", s.Hostname, s.Port)
	}
}

// secrets explains the secrets: aivm does not substitute any yet. No value of one is read.
func (i *importer) secrets(f File) {
	for _, s := range f.Secrets {
		env := s.Name
		if s.Env != s.Name {
			env += "=\"$" + s.Env + "\""
		}
		i.remark("secrets.%s (for %s): not taken over: secrets that do not enter the VM are planned as [secrets.NAME]. aivm run --env %s hands the value to the VM, for one run", s.Name, strings.Join(f.hosts(s), ", "), env)
	}
}

func (f File) hosts(s Secret) []string {
	if len(s.Hosts) == 0 {
		return []string{"no host"}
	}
	return s.Hosts
}

// paths explains the keys and variables about places and space.
func (i *importer) paths(f File, getenv func(string) string) {
	for _, e := range environment(getenv) {
		switch name, v, _ := strings.Cut(e, "="); name {
		case "VMPI_STATE_DIR":
			f.StateDir = v
		case "PI_CONFIG_DIR":
			f.PiConfigDir = v
		case "VMPI_ROOTFS_EXTRA_MB":
			f.RootfsExtraMB = -1
		}
	}
	if f.StateDir != "" {
		i.remark("stateDir (%s): not taken over: templates are in $XDG_CACHE_HOME/aivm/templates", f.StateDir)
	}
	if f.PiConfigDir != "" {
		i.remark("piConfigDir (%s): not taken over: agents and their folders are planned as [agents.pi]; aivm run --mount %s:/home/user/.pi:ro shows the folder to one run", f.PiConfigDir, f.PiConfigDir)
	}
	if f.RootfsExtraMB != 0 {
		i.remark("rootfsExtraMb: not needed: the disk of a run has the size disk_gb of its template and takes only the space that is written")
	}
}
