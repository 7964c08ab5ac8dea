package share

import (
	"path"
	"strings"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// The virtiofsd written in Rust announces the mounts in the directory it serves
// (submounts), and libvirt has no setting to turn that off. The guest's kernel then
// mounts each such directory by itself as soon as it is entered: a virtiofs with its
// own device number, the source "none", and the directory as its root. In the device
// that serves all folders every token is such a submount. So the mount at a folder's
// guest path is of that file system, and only the device number tells which token it
// is. The mount below ExportMount exists as long as the folder is mounted: it keeps
// the guest's kernel (before 6.7) from dropping the directory that is served. QEMU's
// virtiofsd in C announces nothing.

// deviceAndPath returns the tag of the device that a mount in the guest is from, and the
// path inside it that the mount shows.
func (f GuestFacts) deviceAndPath(m mountinfo.Mount) (tag, at string) {
	if m.Type != "virtiofs" || m.Source != "none" {
		return m.Source, m.Root
	}
	for _, s := range f.Mounts {
		token, ok := strings.CutPrefix(s.Point, ExportMount+"/")
		if ok && !strings.Contains(token, "/") && s.Type == m.Type && s.Source == m.Source && s.Dev == m.Dev && s.Root == "/" {
			return FSTag, path.Join("/"+token, m.Root)
		}
	}
	return m.Source, m.Root
}

// showsFolder reports whether the mount shows a's folder.
func (f GuestFacts) showsFolder(a Attachment, m mountinfo.Mount) bool {
	tag, at := a.device()
	source, shown := f.deviceAndPath(m)
	return m.Type == "virtiofs" && source == tag && shown == at
}
