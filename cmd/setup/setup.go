package setup

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Cmd builds "aivm setup".
func (a Verbs) Cmd() *cobra.Command {
	var o provision.SetupOptions
	var debug bool
	var from string
	c := &cobra.Command{
		Use: "setup", Short: "Prepare the template that aivm run starts its VMs from", Args: cli.NoArgs,
		Long: `Build a template for "aivm run": a VM with the usual tools (git, fd, rg, curl, jq, bash,
python3, pip, Node, npm, make, patch, file, sqlite3), booted once and saved, so that runs
resume it. It needs no root; everything is installed in a VM, nothing on this machine.
What will be done is shown first. An interrupted setup continues where it was; if the
template is there and fits, nothing happens.

The flags are recorded in the config as the template's settings ([templates.NAME]).

Examples:
  aivm setup
  aivm setup --packages ripgrep,golang --memory 4096
  aivm setup --template web --script ./install-tools.sh
  aivm setup --upgrade
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.Provision("setup")
			if err != nil {
				return err
			}
			if from != "" {
				return a.importFrom(c, e, from)
			}
			changed := c.Flags().Changed
			o.SetPackages, o.SetScript = changed("packages"), changed("script")
			o.Packages = slices.DeleteFunc(o.Packages, func(s string) bool { return s == "" })
			if debug {
				o.Debug = cleaned{a.UI}
			}
			r, err := e.Setup(c.Context(), o)
			return a.Show(r, err, func() { a.print(r) })
		},
	}
	f := c.Flags()
	f.StringVar(&o.Name, "template", "", "`NAME` of the template (default: default)")
	f.StringSliceVar(&o.Packages, "packages", nil, "Debian or Ubuntu `PACKAGES` to install in addition, comma-separated; \"\" for none")
	f.StringVar(&o.Script, "script", "", "run this `FILE` in the VM, as its root, after the packages; \"\" for none")
	f.IntVar(&o.MemoryMB, "memory", 0, "memory of the VM in `MIB` (default: 2048)")
	f.IntVar(&o.CPUs, "cpus", 0, "`NUMBER` of CPUs (default: 4, or as many as this machine has)")
	f.IntVar(&o.DiskGB, "disk", 0, "largest size of the disk in `GIB` (default: 16)")
	f.BoolVar(&o.Upgrade, "upgrade", false, "rebuild it with the current versions of all packages")
	f.StringVar(&o.FromVM, "from-vm", "", "make it of the disk of the long-lived VM `NAME`, as aivm vm prepare does, with everything that is on it")
	f.BoolVar(&debug, "debug", false, "print the VM's console and everything that is printed in it, on stderr")
	f.StringVar(&from, "import", "", "take the settings of vmpi's `FILE` (.vmpirc.json, .yaml) over into the config, and build nothing")
	a.ImageFlag(c, &o.Image, cli.ImageUsage)
	a.DryRunFlag(c)
	_ = c.RegisterFlagCompletionFunc("template", a.CompleteTemplate)
	return c
}

// print prints the result.
func (a Verbs) print(r provision.SetupResult) {
	state := "is ready"
	if !r.Changed {
		state = "is ready; nothing to do"
	}
	a.UI.Result("template %s %s (%s, %s)", r.Template, state, humanize.Bytes(uint64(r.Size)), r.Accel)
	var vs []string
	for _, n := range slices.Sorted(maps.Keys(r.Versions)) {
		vs = append(vs, n+" "+r.Versions[n])
	}
	if len(vs) > 0 {
		a.UI.Result("  %s", strings.Join(vs, ", "))
	}
	if r.Old {
		a.UI.Say("its packages are older than 30 days; for current ones: aivm setup --upgrade")
	}
	if r.Changed {
		total := 0.0
		for _, s := range r.Seconds {
			total += s
		}
		a.UI.Say("it took %s; try: aivm run -- node --version", (time.Duration(total) * time.Second).String())
	}
}

// importFrom takes a file of vmpi over.
func (a Verbs) importFrom(c *cobra.Command, e *provision.Env, path string) error {
	i, err := e.ImportVMPI(c.Context(), path)
	lines := []string{}
	for _, ch := range i.Changes {
		lines = append(lines, ch.String())
	}
	v := map[string]any{"schema": 1, "file": i.File, "changes": lines, "remarks": append([]string{}, i.Remarks...), "changed": len(lines) > 0}
	return a.Show(v, err, func() {
		if len(lines) == 0 {
			a.UI.Result("nothing of %s is new for the config", ui.Clean(i.File))
			return
		}
		a.UI.Result("%d settings of %s are in the config; to build the template: aivm setup", len(lines), ui.Clean(i.File))
	})
}

// cleaned prints what a VM prints to stderr, with control characters made visible.
type cleaned struct{ s *ui.Streams }

// Write prints p.
func (w cleaned) Write(p []byte) (int, error) {
	defer w.s.Suspend()()
	if w.s.Err == nil {
		return len(p), nil
	}
	if _, err := io.WriteString(w.s.Err, ui.CleanLines(strings.ReplaceAll(string(p), "\r", ""))); err != nil {
		return 0, fmt.Errorf("printing what the VM prints: %w", err)
	}
	return len(p), nil
}
