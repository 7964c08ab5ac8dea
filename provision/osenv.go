package provision

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/sshcfg"
)

// Check is one line of a check list.
type Check = host.Check

// The states of a Check that have a sign of their own.
const (
	StateOK  = host.OK
	StateBad = host.Bad
)

// Builders are the images that can be built here; the privileged helper runs
// them.
func Builders() map[string]root.BuildFunc { return image.Builders() }

// Options are what the command line says about the world.
type Options struct {
	UI           *ui.Streams
	Config       string // --config, "" = the default place
	Yes, YesSudo bool
	DryRun       bool
	NoFirewall   bool
	Verb, Rerun  string
	Hook         func(point string)
	Seams        *Seams // nil in the shipped program
}

// New builds the world of one run from this process. It opens nothing:
// connections are made when they are needed.
func New(o Options) (*Env, error) {
	path, err := StorePath(o.Config)
	if err != nil {
		return nil, err
	}
	sshHome, err := sshcfg.SSHHome()
	if err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = sshHome
	}
	self, err := os.Executable()
	if err != nil {
		return nil, ui.Failed("finding aivm's own program: %w", err)
	}
	e := &Env{
		UI: o.UI, StorePath: path, Home: home, UID: os.Getuid(), GID: os.Getgid(), Getenv: os.Getenv,
		Host: host.OSEnv(), Editor: editor.OSEnv(), SSH: sshcfg.DefaultLayout(sshHome, os.Getenv),
		Cache: image.Cache{Dir: cacheDir(home), Who: o.Rerun},
		Root: root.New(root.Options{
			Euid: os.Geteuid(), Self: []string{self}, NonInteractive: !o.UI.InTTY,
			Stderr: suspending{o.UI}, Builders: Builders(),
		}),
		Approval: plan.Approval{Yes: o.Yes, YesSudo: o.YesSudo},
		DryRun:   o.DryRun, NoFirewall: o.NoFirewall, Verb: o.Verb, Rerun: o.Rerun, Hook: o.Hook, timing: ui.NewTiming(),
	}
	o.Seams.into(e)
	// [behavior] yes_sudo; a store that cannot be read is reported by the verb.
	if st, err := config.Load(path); err == nil {
		e.store = st
		e.distrust(guestFolders(&st.Config))
		e.Approval.YesSudo = e.Approval.YesSudo || st.Config.Behavior.YesSudo
	}
	return e, nil
}

// suspending is where sudo talks: between two states of the live line.
type suspending struct{ s *ui.Streams }

func (w suspending) Write(p []byte) (int, error) {
	defer w.s.Suspend()()
	if w.s.Err == nil {
		return len(p), nil
	}
	return io.WriteString(w.s.Err, ui.CleanLines(string(p)))
}

// StorePath is where the config is: flag, "" for the default place.
func StorePath(flag string) (string, error) {
	if flag == "" {
		return config.DefaultPath()
	}
	if rest, ok := strings.CutPrefix(flag, "~/"); ok {
		if h, err := os.UserHomeDir(); err == nil {
			flag = filepath.Join(h, rest)
		}
	}
	abs, err := filepath.Abs(flag)
	if err != nil {
		return "", ui.Usage("--config %q: %w", flag, err)
	}
	return abs, nil
}

func cacheDir(home string) string {
	base := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(base) {
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "aivm", "images")
}
