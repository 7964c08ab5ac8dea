package editor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"aivm.dev/aivm/internal/ui"
)

// Env is what is asked of the host.
type Env struct {
	LookPath func(string) (string, error)
	Stat     func(string) error // nil if the path exists
	Getenv   func(string) string
	Geteuid  func() int
	Environ  func() []string
}

// OSEnv answers from this process and this machine.
func OSEnv() Env {
	return Env{
		LookPath: exec.LookPath,
		Stat: func(path string) error {
			_, err := os.Stat(path)
			return err
		},
		Getenv:  os.Getenv,
		Geteuid: os.Geteuid,
		Environ: os.Environ,
	}
}

// Found is an editor and the way to start it here.
type Found struct {
	Editor Editor
	Argv   []string // "/usr/bin/code", or "/usr/bin/flatpak run com.visualstudio.code"
	How    string   // "path", "snap", "folder" or "flatpak"
	// Environ is the environment to start it with (see Environ).
	Environ []string

	launcher time.Duration // how long its launcher is waited for; 0 = launcherLimit
}

// NotFoundError: the editor is not on this machine, or not one that can open
// our aliases.
type NotFoundError struct {
	Want    string   // an editor's id, or Auto
	Skipped []string // launchers that are there, each with the reason they will not do
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("the editor %q is not installed", e.Want)
	if e.Want == Auto {
		s = "no editor that opens SSH hosts is installed"
	}
	if len(e.Skipped) > 0 {
		s += " (" + strings.Join(e.Skipped, "; ") + ")"
	}
	return s
}

// Lookup finds the launcher of the wanted editor, or with Auto (or "") of the
// first one that uses OpenSSH. It starts nothing and writes nothing, so it
// belongs before all work.
//
// A missing editor is a *NotFoundError. If it was asked for by name, that is
// wrapped in a refusal with hints; with Auto it comes bare, and the caller
// goes on and prints the Recipe.
func Lookup(env Env, want string) (Found, error) {
	if want == "" {
		want = Auto
	}
	missing := &NotFoundError{Want: want}
	if want == Auto {
		for _, e := range Editors() {
			if e.Kind.Here() {
				continue
			}
			f, ok := find(env, e, missing)
			switch {
			case ok && e.Kind == Gateway:
				missing.Skipped = append(missing.Skipped, e.Name+" is, and asks which of its editors you want: choose it with --editor "+e.ID)
			case ok && e.OpenSSH:
				return f, nil
			case ok:
				missing.Skipped = append(missing.Skipped,
					e.Name+" is, but its SSH client does not check our host key: choose it with --editor "+e.ID)
			}
		}
		return Found{}, missing
	}
	e, ok := ByID(want)
	if !ok {
		return Found{}, ui.Usage("there is no editor called %q", want).
			Hint(ui.CmdFor("known", strings.Join(IDs(), ", ")), ui.Cmd("aivm code --editor auto"))
	}
	if e.Kind.Here() {
		return Found{Editor: e, How: "built in", Environ: Environ(env.Environ())}, nil
	}
	if f, ok := find(env, e, missing); ok {
		return f, nil
	}
	return Found{}, ui.Refused("%w", missing).
		Hint(ui.Remark("install "+e.Name+": "+e.Install), ui.Cmd("aivm code --editor auto"))
}

// All returns every editor of the table with the way to start it here; of one
// that is not here, Argv and How are empty, and why says what is in its place.
func All(env Env) (out []Found, why map[string]string) {
	why = map[string]string{}
	for _, e := range Editors() {
		missing := &NotFoundError{Want: e.ID}
		f, ok := find(env, e, missing)
		switch {
		case e.Kind.Here():
			f = Found{Editor: e, How: "built in"}
		case !ok:
			f = Found{Editor: e}
			why[e.ID] = strings.Join(missing.Skipped, "; ")
		}
		out = append(out, f)
	}
	return out, why
}

// find looks at the PATH, at snaps, at the usual folders and at flatpaks.
func find(env Env, e Editor, missing *NotFoundError) (Found, bool) {
	found := func(how string, argv ...string) (Found, bool) {
		return Found{Editor: e, Argv: argv, How: how, Environ: Environ(env.Environ())}, true
	}
	for _, name := range e.Commands {
		path, err := env.LookPath(name)
		if err != nil {
			continue
		}
		if why := unusable(env, path); why != "" {
			missing.Skipped = append(missing.Skipped, path+" "+why)
			continue
		}
		return found("path", path)
	}
	if e.Snap != "" {
		if path := "/snap/bin/" + e.Snap; env.Stat(path) == nil {
			return found("snap", path)
		}
	}
	home := env.Getenv("HOME")
	for _, path := range e.Paths {
		if below, ok := strings.CutPrefix(path, "~/"); ok {
			if home == "" {
				continue
			}
			path = filepath.Join(home, below)
		}
		// LookPath takes a path with a slash as it is, and unlike Stat says
		// whether it can be started.
		if _, err := env.LookPath(path); err == nil {
			return found("folder", path)
		}
	}
	if e.Flatpak != "" {
		if flatpak, err := env.LookPath("flatpak"); err == nil && flatpakInstalled(env, e.Flatpak) {
			return found("flatpak", flatpak, "run", e.Flatpak)
		}
	}
	return Found{}, false
}

// unusable says why a launcher on the PATH cannot open our aliases.
func unusable(env Env, path string) string {
	switch {
	case strings.Contains(path, "/remote-cli/"):
		return "talks to an editor on another machine"
	case strings.HasPrefix(path, "/mnt/") && inWSL(env):
		return "is the editor of Windows, which reads the SSH configuration of Windows"
	}
	return ""
}

func inWSL(env Env) bool {
	return env.Getenv("WSL_DISTRO_NAME") != "" || env.Getenv("WSL_INTEROP") != ""
}

// flatpakInstalled looks where flatpak keeps system-wide and personal
// installations; asking flatpak itself costs a process.
func flatpakInstalled(env Env, id string) bool {
	places := []string{"/var/lib/flatpak/app"}
	if data := env.Getenv("XDG_DATA_HOME"); data != "" {
		places = append(places, filepath.Join(data, "flatpak/app"))
	}
	if home := env.Getenv("HOME"); home != "" {
		places = append(places, filepath.Join(home, ".local/share/flatpak/app"))
	}
	for _, dir := range places {
		if env.Stat(filepath.Join(dir, id)) == nil {
			return true
		}
	}
	return false
}

// remoteSigns are variables that only a session coming from elsewhere has.
var remoteSigns = []struct{ variable, reason string }{
	{"VSCODE_IPC_HOOK_CLI", "inside a terminal of a remote editor window"},
	{"CODESPACES", "inside a codespace"},
	{"REMOTE_CONTAINERS", "inside a development container"},
	{"SSH_CONNECTION", "inside an SSH session"},
	{"SSH_TTY", "inside an SSH session"},
}

// RemoteSession reports whether the person sits in front of another machine,
// so that an editor started here would open there, or nowhere; and why.
func RemoteSession(env Env) (string, bool) {
	for _, s := range remoteSigns {
		if env.Getenv(s.variable) != "" {
			return s.reason + " (" + s.variable + " is set)", true
		}
	}
	return "", false
}
