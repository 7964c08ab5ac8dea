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

// Env holds the functions with which the package reads the host.
type Env struct {
	LookPath func(string) (string, error)
	Stat     func(string) error // nil if the path exists
	Getenv   func(string) string
	Geteuid  func() int
	Environ  func() []string
}

// OSEnv returns an Env that reads this process and this host.
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

// Found is an editor and how to start it on this host.
type Found struct {
	Editor Editor
	Argv   []string // "/usr/bin/code", or "/usr/bin/flatpak run com.visualstudio.code"
	How    string   // "path", "snap", "folder" or "flatpak"
	// Environ is the environment to start it with (see the function Environ).
	Environ []string

	launcher time.Duration // how long to wait for its launcher; 0 = launcherLimit
}

// NotFoundError reports that the editor is not installed, or that no installed one can open aivm's
// aliases.
type NotFoundError struct {
	Want    string   // an editor's id, or Auto
	Skipped []string // installed launchers, each with the reason why it is not used
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

// Lookup finds the launcher of the editor with id want or, for Auto or "", of the first editor that
// uses OpenSSH. It starts nothing and writes nothing, so it can run before any other work.
//
// If the editor is missing, the error is a *NotFoundError. For an editor given by id it is wrapped
// in a refusal with hints; for Auto it is not wrapped, and the caller continues and prints the
// Recipe.
func Lookup(env Env, want string) (Found, error) {
	if want == "" {
		want = Auto
	}
	missing := &NotFoundError{Want: want}
	if want == Auto {
		for _, e := range Editors() {
			if e.Kind.NeedsNoLauncher() {
				continue
			}
			f, ok := find(env, e, missing)
			switch {
			case ok && e.Kind == Gateway:
				missing.Skipped = append(missing.Skipped, e.Name+" is installed, but prompts for one of its editors: to use it, pass --editor "+e.ID)
			case ok && e.OpenSSH:
				return f, nil
			case ok:
				missing.Skipped = append(missing.Skipped,
					e.Name+" is installed, but its SSH client ignores the host key pinned by aivm: to use it, pass --editor "+e.ID)
			}
		}
		return Found{}, missing
	}
	e, ok := ByID(want)
	if !ok {
		return Found{}, ui.Usage("unknown editor %q", want).
			Hint(ui.Remark("known editors: "+strings.Join(IDs(), ", ")), ui.Cmd("aivm code --editor auto"))
	}
	if e.Kind.NeedsNoLauncher() {
		return Found{Editor: e, How: "built in", Environ: Environ(env.Environ())}, nil
	}
	if f, ok := find(env, e, missing); ok {
		return f, nil
	}
	return Found{}, ui.Refused("%w", missing).
		Hint(ui.Remark("install "+e.Name+": "+e.Install), ui.Cmd("aivm code --editor auto"))
}

// All returns every editor of the table with how to start it on this host. For an editor that is not
// installed, Argv and How are empty, and why maps its id to the launchers that were skipped.
func All(env Env) (out []Found, why map[string]string) {
	why = map[string]string{}
	for _, e := range Editors() {
		missing := &NotFoundError{Want: e.ID}
		f, ok := find(env, e, missing)
		switch {
		case e.Kind.NeedsNoLauncher():
			f = Found{Editor: e, How: "built in"}
		case !ok:
			f = Found{Editor: e}
			why[e.ID] = strings.Join(missing.Skipped, "; ")
		}
		out = append(out, f)
	}
	return out, why
}

// find searches the PATH, snaps, the usual paths and flatpaks, in this order. It adds launchers that
// cannot be used to missing.Skipped.
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
		// LookPath does not search for a name with a slash, and unlike Stat checks that it is
		// executable.
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

// unusable returns why a launcher on the PATH cannot open aivm's aliases, or "".
func unusable(env Env, path string) string {
	switch {
	case strings.Contains(path, "/remote-cli/"):
		return "controls an editor window on another machine"
	case strings.HasPrefix(path, "/mnt/") && inWSL(env):
		return "is the Windows editor, which uses the SSH configuration of Windows"
	}
	return ""
}

func inWSL(env Env) bool {
	return env.Getenv("WSL_DISTRO_NAME") != "" || env.Getenv("WSL_INTEROP") != ""
}

// flatpakInstalled checks the directories of flatpak's system-wide and per-user installations, which
// avoids running flatpak.
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

// remoteSigns are environment variables that only remote sessions have.
var remoteSigns = []struct{ variable, reason string }{
	{"VSCODE_IPC_HOOK_CLI", "inside a terminal of a remote editor window"},
	{"CODESPACES", "inside a codespace"},
	{"REMOTE_CONTAINERS", "inside a development container"},
	{"SSH_CONNECTION", "inside an SSH session"},
	{"SSH_TTY", "inside an SSH session"},
}

// RemoteSession reports whether the user works on this host from another machine, so that an editor
// started here would open on that machine or not at all, and how it was detected.
func RemoteSession(env Env) (string, bool) {
	for _, s := range remoteSigns {
		if env.Getenv(s.variable) != "" {
			return s.reason + " (" + s.variable + " is set)", true
		}
	}
	return "", false
}
