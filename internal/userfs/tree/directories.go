package tree

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

const (
	direntBuffer = 32 << 10 // how much of a directory is read from the host at once
	maxKept      = 8 << 20  // what all handles keep of it for the next request
)

// dropBuffer forgets the entries that were not given to the guest yet.
func (h *handle) dropBuffer() {
	if h.buffer != nil {
		h.seek = h.seek || len(h.entries) > 0
		h.entries, h.buffer = nil, nil
		h.kept.Add(-direntBuffer)
	}
}

// openDir answers OPENDIR.
func (t *Tree) openDir(id uint64, p *fuse.Reply) error {
	h := &handle{fd: -1, kept: &t.kept}
	if id != fuse.RootID {
		dir, fd, err := t.useDir(id)
		if err != nil {
			return err
		}
		defer t.release(dir)
		if h.fd, err = openBeneath(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		h.node = dir
	}
	number, err := t.addHandle(h)
	if err != nil {
		return err
	}
	p.Open(number, 0)
	return nil
}

// dirent is a directory entry of the host.
type dirent struct {
	name string
	ino  uint64
	next uint64
	kind uint32
}

// parseDirent returns the first entry of what getdents64 wrote, and how long it is.
func parseDirent(b []byte) (dirent, int) {
	const header = 19
	if len(b) < header {
		return dirent{}, 0
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size < header || size > len(b) {
		return dirent{}, 0
	}
	name := b[header:size]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return dirent{string(name), binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:]), uint32(b[18]) << 12}, size
}

// readDir answers READDIR and READDIRPLUS.
func (t *Tree) readDir(in fuse.ReadIn, plus bool, p *fuse.Reply) error {
	h, err := t.handle(in.Handle, unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer h.done()
	if h.node == nil {
		return t.readRoot(in, plus, p)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() {
		if t.kept.Load() > maxKept {
			h.dropBuffer() // the next request reads them again
		}
	}()
	if in.Offset != h.next || in.Offset == 0 || h.seek {
		if _, err := unix.Seek(h.fd, int64(in.Offset), 0); err != nil {
			return err
		}
		h.entries, h.next, h.seek = nil, in.Offset, false
	}
	for {
		if len(h.entries) == 0 {
			if h.buffer == nil {
				h.buffer = make([]byte, direntBuffer)
				t.kept.Add(direntBuffer)
			}
			n, err := unix.Getdents(h.fd, h.buffer)
			if err != nil && p.Size() == 0 {
				return err
			}
			if err != nil || n == 0 {
				h.dropBuffer()
				return nil
			}
			h.entries = h.buffer[:n]
		}
		d, size := parseDirent(h.entries)
		if size == 0 {
			return syscall.EIO
		}
		if len(d.name) <= fuse.MaxName {
			if !p.FitsDirent(d.name, in.Size, plus) {
				return nil
			}
			t.addDirent(h, d, plus, p)
		}
		h.entries, h.next = h.entries[size:], d.next
	}
}

// addDirent adds an entry. With plus its attributes are added too, if it is not "." or "..", for
// which the guest does not count a lookup.
func (t *Tree) addDirent(h *handle, d dirent, plus bool, p *fuse.Reply) {
	if !plus {
		p.Dirent(d.name, t.direntNumber(h.node, d), d.next, d.kind)
		return
	}
	if d.name == "." || d.name == ".." || t.entry(h.node, h.fd, d.name, p) != nil {
		p.Entry(0, &fuse.Attr{}, 0)
	}
	p.Dirent(d.name, t.direntNumber(h.node, d), d.next, d.kind)
}

// direntNumber returns the inode number of an entry, as number does.
func (t *Tree) direntNumber(dir *node, d dirent) uint64 {
	st := unix.Statx_t{Ino: d.ino, Dev_major: dir.key.dev.major, Dev_minor: dir.key.dev.minor}
	return t.number(dir.key.export, &st)
}

// readRoot lists the exports.
func (t *Tree) readRoot(in fuse.ReadIn, plus bool, p *fuse.Reply) error {
	for i := in.Offset; i < uint64(len(t.roots)); i++ {
		name := strconv.FormatUint(i, 10)
		if !p.FitsDirent(name, in.Size, plus) {
			return nil
		}
		if plus {
			if err := t.rootEntry(int(i), p); err != nil {
				return err
			}
		}
		p.Dirent(name, t.roots[i].key.ino, i+1, unix.S_IFDIR)
	}
	return nil
}
