package oneshot

import (
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"aivm.dev/aivm/internal/ui"
)

// The values of --workspace.
const (
	WorkspaceRW   = "rw"
	WorkspaceRO   = "ro"
	WorkspaceNone = "none"
)

// The values of --net.
const (
	NetNone = "none"
	NetOpen = "open"
)

// Options are the flags and the command of a run.
type Options struct {
	Name           string
	Argv           []string // empty: a shell
	Timeout        time.Duration
	Workspace      string   // rw, ro, none
	Mounts         []string // HOST[:GUEST][:ro]
	Env            []string // NAME or NAME=VALUE
	Template       string
	MemoryMiB      int // 0: the template's
	CPUs           int // 0: the template's
	Net            string
	Root           bool
	TTY, NoTTY     bool
	Timings, Debug bool
	Sensitive      []string // --allow-sensitive
}

// limits of what is passed to a guest.
const (
	maxMounts = 32
	maxEnv    = 256 << 10 // bytes of one value
)

// Check refuses values that no run can have.
func (o Options) Check() error {
	if !slices.Contains([]string{WorkspaceRW, WorkspaceRO, WorkspaceNone}, o.Workspace) {
		return ui.Usage("--workspace %q: it is rw, ro or none", ui.CleanTo(o.Workspace, 64))
	}
	if !slices.Contains([]string{NetNone, NetOpen}, o.Net) {
		return ui.Usage("--net %q: it is none or open", ui.CleanTo(o.Net, 64))
	}
	if o.TTY && o.NoTTY {
		return ui.Usage("-t and -T are both given")
	}
	if o.Timeout < 0 {
		return ui.Usage("--timeout %s is negative", o.Timeout)
	}
	if o.MemoryMiB < 0 || o.MemoryMiB > 0 && o.MemoryMiB < 256 || o.MemoryMiB > 1<<20 {
		return ui.Usage("--memory %d: a VM has between 256 MiB and 1 TiB", o.MemoryMiB)
	}
	if o.CPUs < 0 || o.CPUs > 255 {
		return ui.Usage("--cpus %d: a VM has between 1 and 255", o.CPUs)
	}
	if len(o.Mounts) > maxMounts {
		return ui.Usage("%d folders are given: a run has at most %d", len(o.Mounts), maxMounts)
	}
	for _, e := range o.Env {
		if err := checkVariable(e); err != nil {
			return err
		}
	}
	for _, a := range o.Argv {
		if strings.ContainsRune(a, 0) {
			return ui.Usage("an argument of the command contains a NUL byte")
		}
	}
	return nil
}

// checkVariable refuses a value of --env that is not NAME or NAME=VALUE.
func checkVariable(e string) error {
	name, value, _ := strings.Cut(e, "=")
	ok := name != "" && utf8.ValidString(name) && !strings.ContainsAny(name, " \t\n\r\x00")
	if !ok || strings.ContainsRune(value, 0) {
		return ui.Usage("--env %q: it is NAME or NAME=VALUE", ui.CleanTo(e, 64))
	}
	if len(value) > maxEnv {
		return ui.Usage("--env %s: its value is longer than %d bytes", ui.CleanTo(name, 64), maxEnv)
	}
	return nil
}

// passed lists the variables that every command gets if they are set here; those that begin with LC_ are
// passed too.
var passed = []string{"TERM", "COLORTERM", "LANG", "LANGUAGE"}

// environment returns the variables of the command, and the names of those that were asked for but are
// not set here. The last value of a name counts.
func environment(asked, host []string) (env, missing []string) {
	var names []string
	values := map[string]string{}
	set := func(name, value string) {
		if _, again := values[name]; !again {
			names = append(names, name)
		}
		values[name] = value
	}
	own := map[string]string{}
	for _, e := range host {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			continue
		}
		own[name] = value
		if slices.Contains(passed, name) || strings.HasPrefix(name, "LC_") {
			set(name, value)
		}
	}
	set("AIVM", "1")
	for _, e := range asked {
		name, value, given := strings.Cut(e, "=")
		if !given {
			if value, given = own[name]; !given {
				missing = append(missing, name)
				continue
			}
		}
		set(name, value)
	}
	for _, n := range names {
		env = append(env, n+"="+values[n])
	}
	return env, missing
}

// Environment returns the variables of a second command in a run.
func Environment(asked []string) (env, missing []string) { return environment(asked, os.Environ()) }

// WantsTerminal reports whether the command gets a terminal, as with ssh: a shell if stdin is one, a
// command if stdout is one too.
func WantsTerminal(command, in, out, tty, no bool) bool {
	switch {
	case no || !in:
		return false
	case tty:
		return true
	}
	return out || !command
}
