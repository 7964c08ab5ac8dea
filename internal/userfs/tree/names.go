package tree

import (
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

// lookup adds the entry of name in the directory id to the reply.
func (t *Tree) lookup(id uint64, name string, p *fuse.Reply) error {
	if id == fuse.RootID {
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= len(t.roots) || strconv.Itoa(i) != name {
			return syscall.ENOENT
		}
		return t.rootEntry(i, p)
	}
	dir, fd, err := t.useDir(id)
	if err != nil {
		return err
	}
	defer t.release(dir)
	err = t.entry(dir, fd, name, p)
	if err == unix.ENOENT {
		p.Entry(0, &fuse.Attr{}, Valid) // the guest may also keep that there is none
		return nil
	}
	return err
}

func (t *Tree) rootEntry(i int, p *fuse.Reply) error {
	var st unix.Statx_t
	if err := statFD(t.roots[i].fd, &st); err != nil {
		return err
	}
	a := t.attr(i, &st)
	p.Entry(t.roots[i].id, &a, Valid)
	return nil
}

// useDir returns a directory and its descriptor, to be released.
func (t *Tree) useDir(id uint64) (*node, int, error) {
	n, err := t.find(id)
	if err != nil {
		return nil, -1, err
	}
	if n.kind != unix.S_IFDIR {
		return nil, -1, syscall.ENOTDIR
	}
	fd, err := t.use(n)
	return n, fd, err
}

// changeDir is useDir for an operation that changes the directory.
func (t *Tree) changeDir(id uint64) (*node, int, error) {
	if id == fuse.RootID {
		return nil, -1, syscall.EROFS
	}
	n, err := t.find(id)
	if err != nil {
		return nil, -1, err
	}
	if err := t.writable(n); err != nil {
		return nil, -1, err
	}
	return t.useDir(id)
}

// entry counts a lookup of name in dir and adds its entry to the reply.
func (t *Tree) entry(dir *node, fd int, name string, p *fuse.Reply) error {
	var st unix.Statx_t
	if err := statName(dir, fd, name, &st); err != nil {
		return err
	}
	n, err := t.learn(dir, name, &st)
	if err != nil {
		return err
	}
	a := t.attr(n.key.export, &st)
	p.Entry(n.id, &a, Valid)
	return nil
}

// statName reads the attributes of name itself, not of what a link refers to. A mount point is
// refused with EACCES.
func statName(dir *node, fd int, name string, st *unix.Statx_t) error {
	if err := unix.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, st); err != nil {
		return err
	}
	if st.Mask&unix.STATX_MNT_ID == 0 || st.Mnt_id != dir.mount {
		return unix.EACCES
	}
	return nil
}

// learn returns the node of a file that was found as name in dir, new or known, and counts a lookup.
func (t *Tree) learn(dir *node, name string, st *unix.Statx_t) (*node, error) {
	key := keyOf(dir.key.export, st)
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byFile[key]
	if n == nil || !n.is(st) {
		if t.count >= t.maxNodes {
			return nil, syscall.ENFILE
		}
		t.count++
		t.lastID++
		n = &node{id: t.lastID, key: key, born: st.Btime, kind: uint32(st.Mode) & unix.S_IFMT, mount: st.Mnt_id, fd: -1}
		t.nodes[n.id] = n
		t.byFile[key] = n
		t.place(n, dir, name)
	} else if n.parent != nil && !within(dir, n) {
		t.place(n, dir, name)
	}
	n.lookups++
	return n, nil
}

// within reports whether dir is n or below it: a parent that would make a loop. The host can move
// directories at any time, so what the tree knows of parents can be outdated.
func within(dir, n *node) bool {
	if n.kind != unix.S_IFDIR {
		return false
	}
	for depth := 0; dir != nil; dir, depth = dir.parent, depth+1 {
		if dir == n || depth > 4096 {
			return true
		}
	}
	return false
}

// permissions are the bits of a mode that a guest may set on a new file.
const permissions = 0o777

// create answers CREATE: it makes a file, or opens one that appeared since the guest looked.
func (t *Tree) create(id uint64, in fuse.MakeIn, p *fuse.Reply) error {
	dir, fd, err := t.changeDir(id)
	if err != nil {
		return err
	}
	defer t.release(dir)
	t.note(dir, in.Name)
	flags := openFlags(in.Flags)
	file, err := openBeneath(fd, in.Name, uint32(flags)|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, in.Mode&permissions)
	if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		file, err = t.openExisting(dir, fd, in.Name, flags)
	}
	if err != nil {
		return err
	}
	var st unix.Statx_t
	err = statFD(file, &st)
	if err == nil && uint32(st.Mode)&unix.S_IFMT != unix.S_IFREG {
		err = syscall.ESTALE
	}
	var n *node
	if err == nil {
		n, err = t.learn(dir, in.Name, &st)
	}
	if err != nil {
		unix.Close(file)
		return err
	}
	h, err := t.addHandle(&handle{fd: file, node: n, write: flags&unix.O_ACCMODE != unix.O_RDONLY})
	if err != nil {
		t.forget(fuse.Forgotten{Node: n.id, Count: 1})
		return err
	}
	a := t.attr(n.key.export, &st)
	p.Entry(n.id, &a, Valid)
	p.Open(h, 0)
	return nil
}

// openExisting opens name in dir if it is a regular file.
func (t *Tree) openExisting(dir *node, fd int, name string, flags int) (int, error) {
	path, err := openPath(fd, name)
	if err != nil {
		return -1, err
	}
	defer unix.Close(path)
	var st unix.Statx_t
	if err := statFD(path, &st); err != nil {
		return -1, err
	}
	if uint32(st.Mode)&unix.S_IFMT != unix.S_IFREG || st.Mnt_id != dir.mount {
		return -1, syscall.ESTALE
	}
	return t.reopen(path, flags)
}

// make answers MKNOD, MKDIR and SYMLINK.
func (t *Tree) make(op fuse.Opcode, id uint64, in fuse.MakeIn, p *fuse.Reply) error {
	dir, fd, err := t.changeDir(id)
	if err != nil {
		return err
	}
	defer t.release(dir)
	if kind := in.Mode & unix.S_IFMT; op == fuse.Mknod && kind != unix.S_IFREG && kind != 0 {
		return syscall.EPERM
	}
	t.note(dir, in.Name)
	switch op {
	case fuse.Mkdir:
		err = unix.Mkdirat(fd, in.Name, in.Mode&(permissions|unix.S_ISVTX))
	case fuse.Symlink:
		err = unix.Symlinkat(in.Target, fd, in.Name)
	default:
		var file int
		if file, err = openBeneath(fd, in.Name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY, in.Mode&permissions); err == nil {
			unix.Close(file)
		}
	}
	if err != nil {
		return err
	}
	return t.entry(dir, fd, in.Name, p)
}

// notMount fails with EACCES if name in dir is a mount point. Removing or replacing it would detach
// the user's mount: the kernel prevents that only for mounts it knows in the namespace of the jail.
func notMount(dir *node, fd int, name string) error {
	var st unix.Statx_t
	return statName(dir, fd, name, &st)
}

// remove answers UNLINK and RMDIR.
func (t *Tree) remove(id uint64, name string, flags int) error {
	dir, fd, err := t.changeDir(id)
	if err != nil {
		return err
	}
	defer t.release(dir)
	if err := notMount(dir, fd, name); err != nil {
		return err
	}
	t.note(dir, name)
	return unix.Unlinkat(fd, name, flags)
}

// rename answers RENAME and RENAME2.
func (t *Tree) rename(id uint64, in fuse.RenameIn) error {
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return syscall.EINVAL
	}
	from, fromFD, err := t.changeDir(id)
	if err != nil {
		return err
	}
	defer t.release(from)
	to, toFD, err := t.changeDir(in.NewDir)
	if err != nil {
		return err
	}
	defer t.release(to)
	if from.key.export != to.key.export {
		return syscall.EXDEV
	}
	if err := notMount(from, fromFD, in.Old); err != nil {
		return err
	}
	if err := notMount(to, toFD, in.New); err != nil && err != unix.ENOENT {
		return err
	}
	t.note(from, in.Old)
	t.note(to, in.New)
	if err := unix.Renameat2(fromFD, in.Old, toFD, in.New, uint(in.Flags)); err != nil {
		return err
	}
	t.moved(to, toFD, in.New)
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		t.moved(from, fromFD, in.Old)
	}
	return nil
}

// moved records the new name of a file that the guest renamed.
func (t *Tree) moved(dir *node, fd int, name string) {
	var st unix.Statx_t
	if statName(dir, fd, name, &st) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byFile[keyOf(dir.key.export, &st)]; n != nil && n.parent != nil && n.is(&st) && !within(dir, n) {
		t.place(n, dir, name)
	}
}

// link answers LINK.
func (t *Tree) link(id uint64, in fuse.LinkIn, p *fuse.Reply) error {
	dir, fd, err := t.changeDir(id)
	if err != nil {
		return err
	}
	defer t.release(dir)
	n, err := t.find(in.Node)
	switch {
	case err != nil:
		return err
	case n.key.export != dir.key.export:
		return syscall.EXDEV
	case n.kind != unix.S_IFREG && n.kind != unix.S_IFLNK:
		return syscall.EPERM
	}
	file, err := t.use(n)
	if err != nil {
		return err
	}
	defer t.release(n)
	t.noteFile(n) // under the name it had: from now on the guest can change it under the new one
	t.note(dir, in.Name)
	if err := unix.Linkat(t.proc, link(file), fd, in.Name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	return t.entry(dir, fd, in.Name, p)
}
