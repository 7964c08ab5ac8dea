package provision

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// person is whose sessions on this machine a shared folder could act on.
func (e *Env) person() share.Person {
	self, err := os.Executable()
	if err != nil {
		self = ""
	}
	return share.Person{Home: e.Home, Login: e.SSH.Home, Getenv: e.given, Self: self}
}

// given is an environment variable as this run got it: distrust takes folders
// out of some, and they lead into those folders all the same.
func (e *Env) given(name string) string {
	if was, ok := e.paths[name]; ok {
		return was
	}
	return e.Getenv(name)
}

// mayReach refuses a folder that a guest must not get without a word: homes,
// keys, the system's and our own files, and, if it is to write the folder, what
// this machine runs by itself.
func (e *Env) mayReach(folder string, writable bool, allow []string) error {
	if e.mayHave[folder] {
		return nil
	}
	if err := share.Refuse(folder, e.Home, e.ownDirs(), allow); err != nil {
		return err
	}
	found, err := share.RefuseLeads(folder, e.person(), writable, allow)
	if err != nil {
		return err
	}
	if writable {
		l := e.SSH
		l.Guests = []sshcfg.GuestFolder{{Path: folder}}
		if err := l.Guarded(); err != nil {
			return err
		}
	}
	for _, a := range found.Active {
		e.warnOnce("what a VM writes into " + ui.Clean(folder) + " can run in this shell: " + ui.Clean(a.String()) + "; to leave such an environment: deactivate, or open another terminal outside the folder")
	}
	if found.Cut != "" {
		e.warnOnce(cutShort(folder, found))
	}
	if writable {
		e.mayHave = map[string]bool{folder: true}
	}
	return nil
}

// cutShort says that more may lead into the folder than was found.
func cutShort(folder string, found share.Leads) string {
	return "not all that could lead into " + ui.Clean(folder) + " was looked at: there is too much in " + ui.Clean(found.Cut)
}

// leads are the places of this machine that lead into folders a guest can
// write, by folder.
func (e *Env) leads(atts []share.Attachment) map[string]share.Leads {
	var folders []string
	for _, a := range atts {
		if exposes(a) && a.State == share.Attached {
			folders = append(folders, a.HostPath)
		}
	}
	return share.FindAllLeads(folders, e.person())
}

// guestFolders are the recorded folders that a VM can write.
func guestFolders(c *config.Config) []sshcfg.GuestFolder {
	var out []sshcfg.GuestFolder
	for _, r := range c.Attachments {
		if a := attachment(r); exposes(a) {
			out = append(out, sshcfg.GuestFolder{Path: filepath.Clean(a.HostPath), VM: a.VM})
		}
	}
	return out
}

// writableBy is a folder as one that its VM can write, if it can.
func writableBy(a *share.Attachment) []sshcfg.GuestFolder {
	if !exposes(*a) {
		return nil
	}
	return []sshcfg.GuestFolder{{Path: a.HostPath, VM: a.VM}}
}

// distrust has nothing of the folders decide what this run does: programs and
// libraries are looked up elsewhere, ssh's configuration is not taken from
// there, and a program of ours that lies there gets no rights.
func (e *Env) distrust(folders []sshcfg.GuestFolder) {
	if len(folders) == 0 {
		return
	}
	e.SSH.Guests = append(slices.Clip(e.SSH.Guests), folders...)
	var t hostfile.Tracer
	in := func(path string) (sshcfg.GuestFolder, bool) {
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
		kept := slices.DeleteFunc(slices.Clone(dirs), func(d string) bool {
			_, guests := in(d)
			return filepath.IsAbs(d) && guests
		})
		if len(kept) < len(dirs) {
			if _, ok := e.paths[name]; !ok {
				if e.paths == nil {
					e.paths = map[string]string{}
				}
				e.paths[name] = os.Getenv(name)
			}
			_ = os.Setenv(name, strings.Join(kept, string(filepath.ListSeparator)))
		}
	}
	self := e.person().Self
	if f, guests := in(self); guests && self != "" && e.Root != nil {
		e.Root = noRoot{e.Root, ui.Refused("the aivm that runs now, %s, lies in a folder that VM %s can write, and does not get root's rights", ui.Clean(self), f.VM).
			Hint("put it where no guest writes: sudo install -m 755 "+shellQuote(self)+" /usr/local/bin/aivm", "then use that one: /usr/local/bin/aivm list")}
	}
}

// noRoot refuses every privileged action.
type noRoot struct {
	root.Applier
	why error
}

func (r noRoot) Do(context.Context, root.Op, root.Progress) (root.Result, error) {
	return root.Result{}, r.why
}
