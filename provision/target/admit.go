package target

import (
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// checkFolder refuses folders that a guest must not get unless the user allows it by name:
// homes, keys, the system's and aivm's own files and, if the guest is to write the folder,
// folders with files that this machine runs by itself.
func (e Finder) checkFolder(folder string, writable bool, allow []string) error {
	if e.GuestWritable[folder] {
		return nil
	}
	if err := share.Refuse(folder, e.Home, e.OwnDirs(), allow); err != nil {
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
		e.WarnOnce("files that a VM writes into " + ui.Clean(folder) + " can run in this shell: " + ui.Clean(a.String()) + "; to leave this environment, run deactivate or open a terminal outside the folder")
	}
	if found.Cut != "" {
		e.WarnOnce(SearchCutShort(folder, found))
	}
	if writable {
		e.GuestWritable = map[string]bool{folder: true}
	}
	return nil
}

// SearchCutShort returns the warning that not all links and settings that lead into the folder
// were searched for.
func SearchCutShort(folder string, found share.Leads) string {
	return "the search for links and settings that lead into " + ui.Clean(folder) + " is incomplete: " + ui.Clean(found.Cut) + " has too many entries"
}

// writableBy returns the folder if its VM can write it, otherwise nothing.
func writableBy(a *share.Attachment) []sshcfg.GuestFolder {
	if !a.Exposes() {
		return nil
	}
	return []sshcfg.GuestFolder{{Path: a.HostPath, VM: a.VM}}
}
