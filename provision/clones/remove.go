package clones

import (
	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// RemoveCommand returns the command with which a user deletes the clone of a folder from the VM. If the
// clone lies in a folder of this machine that the VM shares, there is none, and in is that folder: the
// command would delete files of this machine.
//
// ssh reads only the entry that aivm wrote, with the VM's address and host key: the alias alone may
// lead to another machine. Nothing is deleted of what is mounted at the clone's path or in it. The
// options of rm for this are not enough, as not every system's rm has them.
func (e Part) RemoveCommand(w *target.Target, clone share.Attachment) (command, in string) {
	for _, a := range share.RecordedFor(w.Store.Config, w.Name) {
		if a.Mode.Mounts() && (target.Within(clone.GuestDst, a.GuestDst) || a.Typed != "" && target.Within(clone.GuestDst, a.Typed)) {
			return "", a.HostPath
		}
	}
	dst := shellescape.Quote(clone.GuestDst)
	return "ssh -F " + shellescape.Quote(e.SSH.ConfPath(w.Name)) + " " + w.Name + " " + shellescape.Quote("mountpoint -q "+dst+" || find "+dst+" -xdev -delete"), ""
}
