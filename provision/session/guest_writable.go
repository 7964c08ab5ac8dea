package session

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// Person returns the user whose sessions on this machine could run files of a shared folder.
func (e *Session) Person() share.Person {
	self, err := os.Executable()
	if err != nil {
		self = ""
	}
	return share.Person{Home: e.Home, Login: e.SSH.Home, Getenv: e.originalEnv, Self: self}
}

// originalEnv returns an environment variable as this run received it. Distrust removes folders
// from some variables of this process, but the user's sessions still search those folders.
func (e *Session) originalEnv(name string) string {
	if original, ok := e.originalPaths[name]; ok {
		return original
	}
	return e.Getenv(name)
}

// guestFolders returns the attached folders that a VM can write.
func guestFolders(c *config.Config) []sshcfg.GuestFolder {
	var out []sshcfg.GuestFolder
	for _, r := range c.Attachments {
		if a := share.Recorded(r); a.Exposes() {
			out = append(out, sshcfg.GuestFolder{Path: filepath.Clean(a.HostPath), VM: a.VM})
		}
	}
	return out
}

// Distrust keeps files in folders that a guest can write from influencing this run: it removes
// them from the search paths for programs and libraries, aivm takes no ssh configuration from
// them, and if aivm's own program lies in one, it gets no root rights.
func (e *Session) Distrust(folders []sshcfg.GuestFolder) {
	if len(folders) == 0 {
		return
	}
	e.SSH.Guests = append(slices.Clip(e.SSH.Guests), folders...)
	var t hostfile.Tracer
	findFolder := func(path string) (sshcfg.GuestFolder, bool) {
		way := t.Follow(path)
		for _, f := range folders {
			if _, in := way.Through(t.Folder(f.Path)); in {
				return f, true
			}
		}
		return sshcfg.GuestFolder{}, false
	}
	for _, name := range share.PathVars() {
		dirs := filepath.SplitList(os.Getenv(name))
		remaining := slices.DeleteFunc(slices.Clone(dirs), func(d string) bool {
			_, guests := findFolder(d)
			return filepath.IsAbs(d) && guests
		})
		if len(remaining) < len(dirs) {
			if _, ok := e.originalPaths[name]; !ok {
				if e.originalPaths == nil {
					e.originalPaths = map[string]string{}
				}
				e.originalPaths[name] = os.Getenv(name)
			}
			_ = os.Setenv(name, strings.Join(remaining, string(filepath.ListSeparator)))
		}
	}
	self := e.Person().Self
	if f, guests := findFolder(self); guests && self != "" && e.Root != nil {
		e.Root = noRoot{e.Root, ui.Refused("this aivm program, %s, lies in a folder that VM %s can write, so it does not use sudo", ui.Clean(self), f.VM).
			Hint(ui.CmdFor("copy it to a directory that no guest can write", "sudo install -m 755 "+shellescape.Quote(self)+" /usr/local/bin/aivm"), ui.CmdFor("then use that one", "/usr/local/bin/aivm list"))}
	}
}

// noRoot refuses every privileged action.
type noRoot struct {
	root.Applier
	why error
}

// Do returns the reason of the refusal.
func (r noRoot) Do(context.Context, root.Op, root.Progress) (root.Result, error) {
	return root.Result{}, r.why
}
