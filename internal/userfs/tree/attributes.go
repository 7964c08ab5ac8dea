package tree

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

// stat reads the attributes of a node. A file without a descriptor is read by its name, and compared
// with what is known of it.
func (t *Tree) stat(n *node, st *unix.Statx_t) error {
	t.mu.Lock()
	parent, name := n.parent, n.name
	if n.fd >= 0 || parent == nil {
		t.mu.Unlock()
		fd, err := t.use(n)
		if err != nil {
			return err
		}
		defer t.release(n)
		return statFD(fd, st)
	}
	fd, err := t.useLocked(parent, 0)
	t.mu.Unlock()
	if err != nil {
		return err
	}
	defer t.release(parent)
	if err := statName(parent, fd, name, st); err != nil {
		return stale(err)
	}
	if !n.is(st) {
		return syscall.ESTALE
	}
	return nil
}

// getattr answers GETATTR.
func (t *Tree) getattr(id uint64, p *fuse.Reply) error {
	if id == fuse.RootID {
		p.Attr(t.rootAttr(), Valid)
		return nil
	}
	n, err := t.find(id)
	if err != nil {
		return err
	}
	return t.replyAttr(n, p)
}

func (t *Tree) replyAttr(n *node, p *fuse.Reply) error {
	var st unix.Statx_t
	if err := t.stat(n, &st); err != nil {
		return err
	}
	a := t.attr(n.key.export, &st)
	p.Attr(&a, Valid)
	return nil
}

func (t *Tree) rootAttr() *fuse.Attr {
	return &fuse.Attr{Ino: fuse.RootID, Mode: unix.S_IFDIR | 0o555, Nlink: 2, UID: t.uid, GID: t.gid, BlockSize: 4096}
}

// setattr answers SETATTR: chmod, chown, truncate and utimensat.
func (t *Tree) setattr(r *fuse.Request, in fuse.SetattrIn, p *fuse.Reply) error {
	if r.Node == fuse.RootID {
		return syscall.EROFS
	}
	n, err := t.find(r.Node)
	if err != nil {
		return err
	}
	if err := t.writable(n); err != nil {
		return err
	}
	if in.Valid&fuse.SetUID != 0 && in.UID != t.uid || in.Valid&fuse.SetGID != 0 && in.GID != t.gid {
		if r.UID != 0 {
			return syscall.EPERM
		}
	}
	fd, err := t.use(n)
	if err != nil {
		return err
	}
	defer t.release(n)
	if in.Valid&fuse.SetMode != 0 {
		if err := t.chmod(n, fd, in.Mode); err != nil {
			return err
		}
	}
	if in.Valid&fuse.SetSize != 0 {
		if err := t.truncate(n, fd, in); err != nil {
			return err
		}
	}
	if in.Valid&(fuse.SetAtime|fuse.SetMtime) != 0 {
		times := []unix.Timespec{
			timeOf(in.Valid&fuse.SetAtime != 0, in.Valid&fuse.SetAtimeNow != 0, in.Atime, in.AtimeNsec),
			timeOf(in.Valid&fuse.SetMtime != 0, in.Valid&fuse.SetMtimeNow != 0, in.Mtime, in.MtimeNsec),
		}
		if err := unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		return err
	}
	a := t.attr(n.key.export, &st)
	p.Attr(&a, Valid)
	return nil
}

// chmod sets the permissions of a file. Setuid and setgid are dropped; a directory that has setgid
// keeps it if the guest does not ask for its removal.
func (t *Tree) chmod(n *node, fd int, mode uint32) error {
	if n.kind != unix.S_IFREG && n.kind != unix.S_IFDIR {
		return syscall.EOPNOTSUPP
	}
	bits := mode & (permissions | unix.S_ISVTX)
	if n.kind == unix.S_IFDIR && mode&unix.S_ISGID != 0 {
		var st unix.Statx_t
		if err := statFD(fd, &st); err != nil {
			return err
		}
		bits |= uint32(st.Mode) & unix.S_ISGID
	}
	t.noteFile(n)
	return unix.Fchmodat(t.proc, link(fd), bits, 0)
}

func (t *Tree) truncate(n *node, fd int, in fuse.SetattrIn) error {
	if n.kind != unix.S_IFREG {
		return syscall.EINVAL
	}
	t.noteFile(n)
	if in.Valid&fuse.SetHandle != 0 {
		h, err := t.handle(in.Handle, unix.S_IFREG)
		if err != nil {
			return err
		}
		defer h.done()
		if h.node == n && h.write {
			return unix.Ftruncate(h.fd, in.Size)
		}
	}
	file, err := t.reopen(fd, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	return unix.Ftruncate(file, in.Size)
}

func timeOf(set, now bool, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case !set:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case now:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// readlink answers READLINK.
func (t *Tree) readlink(id uint64, p *fuse.Reply) error {
	n, err := t.find(id)
	if err != nil {
		return err
	}
	if n.kind != unix.S_IFLNK {
		return syscall.EINVAL
	}
	fd, err := t.use(n)
	if err != nil {
		return err
	}
	defer t.release(n)
	size, err := unix.Readlinkat(fd, "", p.Room()[:4096])
	if err != nil {
		return err
	}
	p.Extend(size)
	return nil
}

// xattr answers the requests for extended attributes: those of regular files and directories whose
// names begin with "user.".
func (t *Tree) xattr(r *fuse.Request, in fuse.XattrIn, p *fuse.Reply) error {
	if r.Op != fuse.Listxattr && !strings.HasPrefix(in.Name, "user.") {
		return syscall.EOPNOTSUPP
	}
	if r.Node == fuse.RootID {
		return syscall.EOPNOTSUPP
	}
	n, err := t.find(r.Node)
	if err != nil {
		return err
	}
	if n.kind != unix.S_IFREG && n.kind != unix.S_IFDIR {
		return syscall.EOPNOTSUPP
	}
	change := r.Op == fuse.Setxattr || r.Op == fuse.Removexattr
	if change {
		if err := t.writable(n); err != nil {
			return err
		}
	}
	fd, err := t.use(n)
	if err != nil {
		return err
	}
	defer t.release(n)
	// The calls take a path; the working directory is /proc/self/fd.
	switch r.Op {
	case fuse.Setxattr:
		return unix.Setxattr(link(fd), in.Name, in.Value, int(in.Flags)&(unix.XATTR_CREATE|unix.XATTR_REPLACE))
	case fuse.Removexattr:
		return unix.Removexattr(link(fd), in.Name)
	}
	room := p.Room()
	var size int
	if r.Op == fuse.Getxattr {
		size, err = unix.Getxattr(link(fd), in.Name, room)
	} else if size, err = unix.Listxattr(link(fd), room); err == nil {
		size = keepUser(room[:size])
	}
	switch {
	case err != nil:
		return err
	case in.Size == 0:
		p.U32(uint32(size))
		p.U32(0)
	case size > int(in.Size):
		return syscall.ERANGE
	default:
		p.Extend(size)
	}
	return nil
}

// keepUser moves the names that begin with "user." to the front of a list of names, and returns how
// many bytes they have.
func keepUser(list []byte) int {
	var kept int
	for name := range strings.SplitAfterSeq(string(list), "\x00") {
		if strings.HasPrefix(name, "user.") {
			kept += copy(list[kept:], name)
		}
	}
	return kept
}
