// Package tree answers the FUSE requests of a guest with the files of some folders, the exports.
//
// The root of the served tree is a read-only directory with one entry per export: "0", "1" and so on.
//
// # How a guest is kept inside
//
// The package never uses a path of more than one component. A file is reached from the open directory
// it is in, with openat2 and RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS and
// RESOLVE_NO_XDEV, first as an O_PATH descriptor. It is compared with what the guest knows (device,
// inode, time of birth), and only if it is a regular file or a directory it is opened, through the
// descriptor. Replacing a directory by a link, a mount or a FIFO in between has no effect: a link is
// opened as the link, a mount is refused (EACCES: mount points below an export are not served), a FIFO
// is never opened.
//
// # What a guest cannot do
//
//   - Change a read-only export (EROFS), whatever the guest's kernel thinks of it.
//   - Create devices, FIFOs and sockets (EPERM), or link existing ones.
//   - Set setuid and setgid bits: they are dropped silently. A directory keeps the setgid bit it has.
//   - Move or link a file from one export to another (EXDEV).
//   - Use extended attributes other than user.* (EOPNOTSUPP).
//
// # Owners
//
// Every file that is created belongs to the user of the server. The user's own uid and gid are shown
// as they are, all others as 65534. chown to the same owner succeeds; chown to another one fails with
// EPERM. For the guest's root it succeeds without effect: otherwise `sudo tar x` and `npm install` as
// root would fail.
//
// # Caches and locks
//
// The guest keeps names and attributes for one second, so a change on the host is seen after about a
// second. It keeps the data of a file between two opens only if neither size nor times have changed.
// File locks are the guest's own: they work between programs of one guest, not between guests or with
// the host.
package tree
