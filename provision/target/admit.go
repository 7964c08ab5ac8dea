package target

import (
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// mayReach refuses a folder that a guest must not get without a word: homes,
// keys, the system's and our own files, and, if it is to write the folder, what
// this machine runs by itself.
func (e Finder) checkFolder(folder string, writable bool, allow []string) error {
	if e.GuestWritable[folder] {
		return nil
	}
	if err := share.Refuse(folder, e.Home, e.ownDirs(), allow); err != nil {
		return err
	}
	found, err := share.RefuseLeads(folder, e.Person(), writable, allow)
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
		e.WarnOnce("what a VM writes into " + ui.Clean(folder) + " can run in this shell: " + ui.Clean(a.String()) + "; to leave such an environment: deactivate, or open another terminal outside the folder")
	}
	if found.Cut != "" {
		e.WarnOnce(SearchCutShort(folder, found))
	}
	if writable {
		e.GuestWritable = map[string]bool{folder: true}
	}
	return nil
}

// CutShort says that more may lead into the folder than was found.
func SearchCutShort(folder string, found share.Leads) string {
	return "not all that could lead into " + ui.Clean(folder) + " was looked at: there is too much in " + ui.Clean(found.Cut)
}

// writableBy is a folder as one that its VM can write, if it can.
func writableBy(a *share.Attachment) []sshcfg.GuestFolder {
	if !a.Exposes() {
		return nil
	}
	return []sshcfg.GuestFolder{{Path: a.HostPath, VM: a.VM}}
}
