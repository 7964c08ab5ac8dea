package tree

import (
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

// A handle is an open file or directory of the guest.
type handle struct {
	fd    int // -1 for the root of the tree
	node  *node
	write bool
	users atomic.Int32 // operations, and one for being in the table

	// of a directory
	mu      sync.Mutex
	entries []byte // read from the host, not given to the guest yet
	next    uint64 // offset of the first of them
	buffer  []byte
	seek    bool // the descriptor is not at next: entries were dropped
	kept    *atomic.Int64
}

// addHandle adds h to the table and keeps its node's descriptor open, so that the attributes of a
// file can be read after its name is gone. It closes the handle if it fails.
func (t *Tree) addHandle(h *handle) (uint64, error) {
	h.users.Store(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.handles) >= t.limit {
		unix.Close(h.fd)
		return 0, syscall.ENFILE
	}
	if h.node != nil {
		if _, err := t.useLocked(h.node, 0); err != nil {
			unix.Close(h.fd)
			return 0, err
		}
	}
	t.lastFile++
	t.handles[t.lastFile] = h
	return t.lastFile, nil
}

// handle returns a handle of the guest, to be given back with done.
func (t *Tree) handle(id uint64, kind uint32) (*handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.handles[id]
	if h == nil || h.kind() != kind {
		return nil, syscall.EBADF
	}
	h.users.Add(1)
	return h, nil
}

func (h *handle) kind() uint32 {
	if h.node == nil {
		return unix.S_IFDIR
	}
	return h.node.kind
}

func (h *handle) done() {
	if h.users.Add(-1) == 0 && h.fd >= 0 {
		unix.Close(h.fd)
		h.dropBuffer()
	}
}

// closeHandle answers RELEASE and RELEASEDIR.
func (t *Tree) closeHandle(id uint64) error {
	t.mu.Lock()
	h := t.handles[id]
	delete(t.handles, id)
	if h != nil && h.node != nil {
		t.releaseLocked(h.node)
	}
	t.mu.Unlock()
	if h == nil {
		return syscall.EBADF
	}
	h.done()
	return nil
}

// openFlags returns the flags of open(2) that a guest may choose. O_APPEND is not among them: the
// guest's kernel says with every WRITE where it goes.
func openFlags(flags uint32) int {
	return int(flags) & (unix.O_ACCMODE | unix.O_TRUNC | unix.O_DSYNC | unix.O_SYNC)
}

// openFile answers OPEN.
func (t *Tree) openFile(id uint64, flags uint32, p *fuse.Reply) error {
	n, err := t.find(id)
	switch {
	case err != nil:
		return err
	case n.kind == unix.S_IFDIR:
		return syscall.EISDIR
	case n.kind != unix.S_IFREG:
		return syscall.EPERM
	}
	host := openFlags(flags)
	write := host&unix.O_ACCMODE != unix.O_RDONLY
	if write || host&unix.O_TRUNC != 0 {
		if err := t.writable(n); err != nil {
			return err
		}
	}
	path, err := t.use(n)
	if err != nil {
		return err
	}
	defer t.release(n)
	if write || host&unix.O_TRUNC != 0 {
		t.noteFile(n)
	}
	fd, err := t.reopen(path, host)
	if err != nil {
		return err
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil || uint32(st.Mode)&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return syscall.ESTALE
	}
	h, err := t.addHandle(&handle{fd: fd, node: n, write: write})
	if err != nil {
		return err
	}
	var reply uint32
	if t.unchanged(n, &st) {
		reply = fuse.OpenKeepCache
	}
	p.Open(h, reply)
	return nil
}

// unchanged reports whether the data of a file is what it was when it was opened last.
func (t *Tree) unchanged(n *node, st *unix.Statx_t) bool {
	now := stamp{st.Size, st.Mtime, st.Ctime}
	t.mu.Lock()
	defer t.mu.Unlock()
	same := n.seen == now
	n.seen = now
	return same
}

// read answers READ.
func (t *Tree) read(in fuse.ReadIn, p *fuse.Reply) error {
	h, err := t.handle(in.Handle, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer h.done()
	room := p.Room()
	room = room[:min(len(room), int(in.Size))]
	for done := 0; done < len(room); {
		n, err := unix.Pread(h.fd, room[done:], int64(in.Offset)+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil && done == 0:
			return err
		case err != nil || n == 0:
			return nil
		}
		done += n
		p.Extend(n)
	}
	return nil
}

// write answers WRITE. What a program appends goes to the end of the file as the host knows it.
func (t *Tree) write(in fuse.WriteIn, p *fuse.Reply) error {
	h, err := t.handle(in.Handle, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer h.done()
	if !h.write {
		return syscall.EBADF
	}
	flags := 0
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WriteFromCache == 0 {
		flags = unix.RWF_APPEND
	}
	done := 0
	for done < len(in.Data) {
		n, err := unix.Pwritev2(h.fd, [][]byte{in.Data[done:]}, in.Offset+int64(done), flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil && done == 0 {
			return err
		}
		if err != nil || n == 0 {
			break
		}
		done += n
	}
	p.U32(uint32(done))
	p.U32(0)
	return nil
}

// sync answers FSYNC and FSYNCDIR.
func (t *Tree) sync(id uint64, flags, kind uint32) error {
	h, err := t.handle(id, kind)
	if err != nil {
		return err
	}
	defer h.done()
	if h.fd < 0 {
		return nil
	}
	if flags&1 != 0 {
		return unix.Fdatasync(h.fd)
	}
	return unix.Fsync(h.fd)
}

// fallocate answers FALLOCATE.
func (t *Tree) fallocate(in fuse.FallocateIn) error {
	h, err := t.handle(in.Handle, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer h.done()
	if in.Mode&^(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		return syscall.EOPNOTSUPP
	}
	if !h.write {
		return syscall.EBADF
	}
	return unix.Fallocate(h.fd, in.Mode, in.Offset, in.Length)
}

// seek answers LSEEK, which the guest uses to find data and holes.
func (t *Tree) seek(in fuse.LseekIn, p *fuse.Reply) error {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return syscall.EINVAL
	}
	h, err := t.handle(in.Handle, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer h.done()
	off, err := unix.Seek(h.fd, in.Offset, int(in.Whence))
	if err != nil {
		return err
	}
	p.U64(uint64(off))
	return nil
}

// maxCopy is how much one COPY_FILE_RANGE copies at most: the guest repeats it for the rest.
const maxCopy = 64 << 20

// copyRange answers COPY_FILE_RANGE.
func (t *Tree) copyRange(in fuse.CopyIn, p *fuse.Reply) error {
	from, err := t.handle(in.Handle, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer from.done()
	to, err := t.handle(in.NewHandle, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer to.done()
	if !to.write {
		return syscall.EBADF
	}
	n, err := unix.CopyFileRange(from.fd, &in.Offset, to.fd, &in.NewOffset, int(min(in.Length, maxCopy)), 0)
	if err != nil {
		return err
	}
	p.U32(uint32(n))
	p.U32(0)
	return nil
}

// statfs answers STATFS.
func (t *Tree) statfs(id uint64, p *fuse.Reply) error {
	n := t.roots[0]
	if id != fuse.RootID {
		var err error
		if n, err = t.find(id); err != nil {
			return err
		}
		n = t.roots[n.key.export]
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(n.fd, &st); err != nil {
		return err
	}
	p.Statfs(fuse.Space{
		Blocks: st.Blocks, Free: st.Bfree, Available: st.Bavail, Files: st.Files, FreeFiles: st.Ffree,
		BlockSize: uint32(st.Bsize), NameLength: fuse.MaxName, FragmentSize: uint32(st.Frsize),
	})
	return nil
}
