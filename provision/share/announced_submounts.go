package share

import (
	"path"
	"strings"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// The virtiofsd written in Rust announces what is mounted in the directory it
// serves, and libvirt has no setting against it. The guest's kernel then mounts
// each such directory by itself as soon as it is walked into: a virtiofs with a
// device number of its own, the source "none", and the directory as its root.
// With the device of all folders every token is one, so a folder's place shows
// that file system, and which token it is only the device number tells. The
// mount below ExportMount stays as long as the folder does: it inodeLimit the
// guest's kernel (before 6.7) from forgetting the directory that is served.
// QEMU's own daemon in C announces nothing.

// shown is the tag of the device a mount of the guest is from, and what of it
// the mount shows.
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

// shows reports whether the mount shows a's folder.
func (f GuestFacts) showsFolder(a Attachment, m mountinfo.Mount) bool {
	tag, at := a.device()
	source, shown := f.deviceAndPath(m)
	return m.Type == "virtiofs" && source == tag && shown == at
}
