package tree

import (
	"container/list"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

// Valid is how long the guest may keep names and attributes.
const Valid = time.Second

// Limits of one tree, whatever the guest asks for.
const (
	maxNodes    = 400_000 // names and inodes the guest's kernel knows, and the directories above them
	maxHandles  = 16_384  // open files and directories
	maxDevices  = 255     // file systems in the exports
	minFiles    = 256     // descriptors without which there is no point in starting
	spareFiles  = 64      // descriptors for everything else
	nobody      = 65534   // shown as the owner of files of other users
	maxAttempts = 4       // of an openat2 that is disturbed by a rename
)

// An Export is a folder to serve.
type Export struct {
	Dir      int // an O_PATH descriptor of the directory, which the tree keeps
	ReadOnly bool
}

// A Tree serves the exports. Its methods may be called from several goroutines.
type Tree struct {
	exports  []Export
	proc     int // a directory /proc/self/fd
	uid, gid uint32
	changed  func(export int, rel string)

	mu       sync.Mutex
	nodes    map[uint64]*node
	count    int // of nodes in memory: also those that are forgotten, but are parents or in use
	byFile   map[fileKey]*node
	lastID   uint64
	open     *list.List // nodes with a descriptor, the most recently used first
	maxOpen  int
	devices  map[exportDevice]uint64
	roots    []*node
	handles  map[uint64]*handle
	lastFile uint64
	limit    int // of handles
	maxNodes int
	kept     atomic.Int64 // bytes that directory handles keep
}

// fileKey is a file as the host identifies it. One file in two exports is two nodes, because the
// exports can have different rights.
type fileKey struct {
	export int
	dev    fileDevice
	ino    uint64
}

type fileDevice struct{ major, minor uint32 }

type exportDevice struct {
	export int
	dev    fileDevice
}

// A node is a file or directory that the guest's kernel knows by number. Directories in use and open
// files have a descriptor; that of any other node is opened when it is needed.
type node struct {
	id      uint64
	key     fileKey
	born    unix.StatxTimestamp
	kind    uint32 // S_IFMT of the mode
	mount   uint64
	parent  *node // nil for the root of an export
	name    string
	lookups uint64
	fd      int  // -1 if closed
	pins    int  // operations and handles that use fd
	entries int  // counted nodes whose parent this is
	dropped bool // not counted any more
	element *list.Element

	seen stamp // when data was last given to the guest
}

// stamp changes when the data of a file changes.
type stamp struct {
	size         uint64
	mtime, ctime unix.StatxTimestamp
}

// New returns a tree. proc is a descriptor of the directory /proc/self/fd of this process, which is
// also its working directory; changed is called with every path that the guest creates, writes,
// renames or removes.
func New(exports []Export, proc int, changed func(export int, rel string)) (*Tree, error) {
	t := &Tree{
		exports: exports, proc: proc, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), changed: changed,
		nodes: map[uint64]*node{}, byFile: map[fileKey]*node{}, lastID: fuse.RootID,
		open: list.New(), devices: map[exportDevice]uint64{}, handles: map[uint64]*handle{},
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("reading the limit of open files: %w", err)
	}
	if files.Cur < minFiles {
		return nil, fmt.Errorf("the limit of open files is %d; the folder server needs at least %d", files.Cur, minFiles)
	}
	usable := int(min(files.Cur, 1<<20)) - spareFiles
	t.limit = min(maxHandles, usable/2)
	t.maxNodes = maxNodes
	t.maxOpen = min(usable-t.limit, 1<<16)
	for i, e := range exports {
		var st unix.Statx_t
		if err := statFD(e.Dir, &st); err != nil {
			return nil, fmt.Errorf("reading export %d: %w", i, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, fmt.Errorf("export %d is not a directory", i)
		}
		n := &node{key: keyOf(i, &st), born: st.Btime, kind: unix.S_IFDIR, mount: st.Mnt_id, name: strconv.Itoa(i), fd: e.Dir, pins: 1}
		t.lastID++
		n.id = t.lastID
		t.nodes[n.id] = n
		t.byFile[n.key] = n
		t.roots = append(t.roots, n)
	}
	return t, nil
}

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

func statFD(fd int, st *unix.Statx_t) error {
	return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, statMask, st)
}

func keyOf(export int, st *unix.Statx_t) fileKey {
	return fileKey{export, fileDevice{st.Dev_major, st.Dev_minor}, st.Ino}
}

// is reports whether st is the file of n.
func (n *node) is(st *unix.Statx_t) bool {
	return keyOf(n.key.export, st) == n.key && st.Btime == n.born && uint32(st.Mode)&unix.S_IFMT == n.kind && st.Mnt_id == n.mount
}

// find returns a node by its number.
func (t *Tree) find(id uint64) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[id]; n != nil {
		return n, nil
	}
	return nil, syscall.ESTALE
}

// use returns the descriptor of n, an O_PATH one, opened again if it was closed. It stays open until
// release is called. It fails with ESTALE if another file has the name now.
func (t *Tree) use(n *node) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.useLocked(n, 0)
}

func (t *Tree) useLocked(n *node, depth int) (int, error) {
	if n.fd >= 0 {
		n.pins++
		if n.element != nil {
			t.open.MoveToFront(n.element)
		}
		return n.fd, nil
	}
	if n.parent == nil || depth > 4096 {
		return -1, syscall.ESTALE
	}
	dir, err := t.useLocked(n.parent, depth+1)
	if err != nil {
		return -1, err
	}
	fd, err := openPath(dir, n.name)
	t.releaseLocked(n.parent)
	if err != nil {
		return -1, stale(err)
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil || !n.is(&st) {
		unix.Close(fd)
		return -1, syscall.ESTALE
	}
	t.keep(n, fd)
	n.pins++
	return fd, nil
}

// stale turns the error of a name that is gone into ESTALE, after which the guest looks it up again.
func stale(err error) error {
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return syscall.ESTALE
	}
	return err
}

// keep makes fd the descriptor of n, and closes those that were not used for the longest time.
func (t *Tree) keep(n *node, fd int) {
	n.fd = fd
	n.element = t.open.PushFront(n)
	for e := t.open.Back(); e != nil && t.open.Len() > t.maxOpen; {
		old, next := e.Value.(*node), e.Prev()
		if old != n && old.pins == 0 {
			t.closeNode(old)
		}
		e = next
	}
}

func (t *Tree) closeNode(n *node) {
	if n.element == nil {
		return // the root of an export
	}
	t.open.Remove(n.element)
	n.element = nil
	unix.Close(n.fd)
	n.fd = -1
}

func (t *Tree) release(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(n)
}

func (t *Tree) releaseLocked(n *node) {
	n.pins--
	if n.pins == 0 && (n.lookups == 0 || n.kind != unix.S_IFDIR) {
		t.closeNode(n) // a file is opened again by its name; directories are used more often
	}
	t.drop(n)
}

// openPath opens one component of dir as an O_PATH descriptor, whatever it is. A mount point is
// refused with EACCES.
func openPath(dir int, name string) (int, error) {
	return openBeneath(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// openBeneath is openat2 for one component of dir, which is never left.
func openBeneath(dir int, name string, flags, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags: uint64(flags) | unix.O_CLOEXEC, Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for attempt := 1; ; attempt++ {
		fd, err := unix.Openat2(dir, name, &how)
		switch {
		case (err == unix.EAGAIN || err == unix.EINTR) && attempt < maxAttempts:
			continue
		case err == unix.EXDEV:
			return -1, unix.EACCES
		case err == unix.EMFILE:
			return -1, unix.ENFILE
		}
		return fd, err
	}
}

// link returns the name of a descriptor in the working directory, /proc/self/fd: for the calls that
// take no descriptor.
func link(fd int) string { return strconv.Itoa(fd) }

// reopen opens the file of an O_PATH descriptor, which is a regular file or a directory.
func (t *Tree) reopen(fd int, flags int) (int, error) {
	got, err := unix.Openat(t.proc, link(fd), flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == unix.EMFILE {
		err = unix.ENFILE
	}
	return got, err
}

// path returns the path of name in the directory n, relative to the export.
func (t *Tree) path(n *node, name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := []string{name}
	for ; n != nil && n.parent != nil && len(names) < 4096; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// note reports that the guest is about to change name in the directory n. It is called before the
// change, so that none is missing if the server is killed; a change that then fails is reported too.
func (t *Tree) note(n *node, name string) {
	if t.changed != nil {
		t.changed(n.key.export, t.path(n, name))
	}
}

// noteFile is note for a file.
func (t *Tree) noteFile(n *node) {
	t.mu.Lock()
	parent, name := n.parent, n.name
	t.mu.Unlock()
	if parent != nil {
		t.note(parent, name)
	}
}

// writable fails with EROFS if the export of n is read-only.
func (t *Tree) writable(n *node) error {
	if t.exports[n.key.export].ReadOnly {
		return syscall.EROFS
	}
	return nil
}

// forget drops count lookups of a node.
func (t *Tree) forget(f fuse.Forgotten) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[f.Node]
	if n == nil || n.parent == nil {
		return
	}
	n.lookups -= min(n.lookups, f.Count)
	if n.lookups > 0 {
		return
	}
	delete(t.nodes, n.id)
	if t.byFile[n.key] == n {
		delete(t.byFile, n.key)
	}
	if n.pins == 0 {
		t.closeNode(n)
	}
	t.drop(n)
}

// place records where a node is.
func (t *Tree) place(n, dir *node, name string) {
	old := n.parent
	dir.entries++
	n.parent, n.name = dir, name
	if old != nil {
		old.entries--
		t.drop(old)
	}
}

// drop stops counting a node that nothing refers to, and those above it that this was the last entry of.
func (t *Tree) drop(n *node) {
	for n.parent != nil && n.lookups == 0 && n.pins == 0 && n.entries == 0 && !n.dropped {
		n.dropped = true
		t.count--
		n = n.parent
		n.entries--
	}
}

// attr translates attributes for the guest.
func (t *Tree) attr(export int, st *unix.Statx_t) fuse.Attr {
	a := fuse.Attr{
		Ino: t.number(export, st), Size: st.Size, Blocks: st.Blocks, Mode: uint32(st.Mode), Nlink: st.Nlink, BlockSize: st.Blksize,
		UID: nobody, GID: nobody,
		Atime: fuse.Time{Sec: st.Atime.Sec, Nsec: st.Atime.Nsec}, Mtime: fuse.Time{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec}, Ctime: fuse.Time{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec},
	}
	if st.Uid == t.uid {
		a.UID = t.uid
	}
	if st.Gid == t.gid {
		a.GID = t.gid
	}
	return a
}

// number returns the inode number for the guest, for which all exports are one file system: that of
// the host, different in every pair of export and file system.
func (t *Tree) number(export int, st *unix.Statx_t) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	dev := exportDevice{export, fileDevice{st.Dev_major, st.Dev_minor}}
	index, ok := t.devices[dev]
	if !ok && len(t.devices) < maxDevices {
		index = uint64(len(t.devices))
		t.devices[dev] = index
	}
	return st.Ino ^ index<<56
}
