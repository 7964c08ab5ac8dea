package provision

import (
	"context"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/projectfile"
	"aivm.dev/aivm/internal/vmpi"
)

// ProjectWants returns what the files of the project in folder ask for: ".aivm.toml" and, for what
// that does not say, vmpi's file. Both can be hostile; see internal/projectfile.
func (e *Env) ProjectWants(folder string) projectfile.Wants {
	o := projectfile.Options{Trusted: e.StorePath}
	read := func() projectfile.Wants {
		return projectfile.Read(folder, o).Or(vmpi.Project(folder, vmpi.Options{Options: o, UID: e.UID, Getenv: e.Getenv}))
	}
	w := read()
	if w.MemoryMB == 0 && w.CPUs == 0 {
		return w // the machine's size does not matter
	}
	h := e.HostFacts()
	if o.MaxCPUs = h.CPUs; h.MemErr == nil {
		o.MaxMemoryMB = h.MemTotalMB / 2
	}
	return read()
}

// packagesHint returns the command that builds the template with the packages that the project asks for
// in addition; "" if the template has them all by the config.
func packagesHint(w projectfile.Wants, c *config.Config, template string) string {
	t, _ := c.TemplateNamed(template)
	all := slices.Clone(t.Packages)
	for _, p := range w.Packages {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	if len(all) == len(t.Packages) {
		return ""
	}
	return "aivm setup --template " + template + " --packages " + strings.Join(all, ",")
}

// VMPIImport reads a file of vmpi and returns what it means for the config. It changes nothing.
func (e *Env) VMPIImport(path string) (vmpi.Imported, error) {
	f, err := vmpi.Load(path)
	if err != nil {
		return vmpi.Imported{}, err
	}
	store, err := e.Load()
	if err != nil {
		return vmpi.Imported{}, err
	}
	return vmpi.Import(f, store.Config, e.Getenv), nil
}

// ApplyVMPIImport writes the changes of an import, which the user has seen, to the config.
func (e *Env) ApplyVMPIImport(ctx context.Context, i vmpi.Imported) error {
	return config.Update(ctx, e.StorePath, func(c *config.Config) error {
		i.Apply(c)
		return nil
	})
}
