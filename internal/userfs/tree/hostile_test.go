package tree

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

// newTree returns a tree of a writable export with the file f and the directory d, and a read-only
// one. The process's working directory becomes /proc/self/fd.
func newTree(t testing.TB) (*Tree, string) {
	t.Helper()
	base := t.TempDir()
	for _, d := range []string{"rw/d", "ro"} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"rw/f", "ro/f", "outside"} {
		if err := os.WriteFile(filepath.Join(base, f), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var exports []Export
	for i, d := range []string{"rw", "ro"} {
		fd, err := unix.Open(filepath.Join(base, d), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		exports = append(exports, Export{Dir: fd, ReadOnly: i == 1})
	}
	t.(interface{ Chdir(string) }).Chdir("/proc/self/fd")
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(exports, proc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr, base
}

// guest sends requests to a tree.
type guest struct {
	t    testing.TB
	tree *Tree
}

func (g guest) send(op fuse.Opcode, node uint64, body []byte) ([]byte, syscall.Errno) {
	g.t.Helper()
	b := make([]byte, fuse.InHeaderSize, fuse.InHeaderSize+len(body))
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	binary.LittleEndian.PutUint32(b[4:], uint32(op))
	binary.LittleEndian.PutUint64(b[16:], node)
	r, err := fuse.Parse(b)
	if err != nil {
		return nil, syscall.EPROTO
	}
	reply := g.tree.Serve(&r, make([]byte, r.ReplySize()))
	if reply == nil {
		return nil, 0
	}
	if int(binary.LittleEndian.Uint32(reply)) != len(reply) {
		g.t.Fatalf("a reply of %d bytes says %d", len(reply), binary.LittleEndian.Uint32(reply))
	}
	return reply[fuse.OutHeaderSize:], syscall.Errno(-int32(binary.LittleEndian.Uint32(reply[4:])))
}

func (g guest) lookup(dir uint64, name string) uint64 {
	g.t.Helper()
	out, errno := g.send(fuse.Lookup, dir, append([]byte(name), 0))
	if errno != 0 {
		g.t.Fatalf("looking up %s: %v", name, errno)
	}
	return binary.LittleEndian.Uint64(out)
}

func ints(values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// flags returns integers of 32 bits, with which the bodies of many requests begin.
func flags(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// TestReadOnlyExport sends every request that changes something to a read-only export, as a guest
// whose kernel does not check.
func TestReadOnlyExport(t *testing.T) {
	tr, base := newTree(t)
	g := guest{t, tr}
	ro := g.lookup(fuse.RootID, "1")
	f := g.lookup(ro, "f")
	rw := g.lookup(fuse.RootID, "0")
	for what, errno := range map[string]syscall.Errno{
		"create":   second(g.send(fuse.Create, ro, append(flags(unix.O_WRONLY, 0o644, 0, 0), "new\x00"...))),
		"mkdir":    second(g.send(fuse.Mkdir, ro, append(flags(0o755, 0), "new\x00"...))),
		"mknod":    second(g.send(fuse.Mknod, ro, append(flags(unix.S_IFREG|0o644, 0, 0, 0), "new\x00"...))),
		"symlink":  second(g.send(fuse.Symlink, ro, []byte("new\x00target\x00"))),
		"unlink":   second(g.send(fuse.Unlink, ro, []byte("f\x00"))),
		"rename":   second(g.send(fuse.Rename, ro, append(ints(ro), "f\x00g\x00"...))),
		"move out": second(g.send(fuse.Rename, ro, append(ints(rw), "f\x00g\x00"...))),
		"move in":  second(g.send(fuse.Rename, rw, append(ints(ro), "f\x00g\x00"...))),
		"link":     second(g.send(fuse.Link, ro, append(ints(f), "g\x00"...))),
		"chmod":    second(g.send(fuse.Setattr, f, append(flags(fuse.SetMode), make([]byte, 84)...))),
		"truncate": second(g.send(fuse.Setattr, f, append(flags(fuse.SetSize), make([]byte, 84)...))),
		"open":     second(g.send(fuse.Open, f, flags(unix.O_WRONLY, 0))),
		"trunc":    second(g.send(fuse.Open, f, flags(unix.O_TRUNC, 0))),
		"setxattr": second(g.send(fuse.Setxattr, f, append(flags(1, 0), "user.x\x00v"...))),
		"rmxattr":  second(g.send(fuse.Removexattr, f, []byte("user.x\x00"))),
	} {
		if errno != syscall.EROFS {
			t.Errorf("%s: %v", what, errno)
		}
	}
	if errno := second(g.send(fuse.Link, rw, append(ints(f), "g\x00"...))); errno != syscall.EXDEV {
		t.Errorf("link to the writable export: %v", errno)
	}
	out, errno := g.send(fuse.Open, f, flags(unix.O_RDONLY, 0))
	if errno != 0 {
		t.Fatal(errno)
	}
	write := append(ints(binary.LittleEndian.Uint64(out), 0), append(flags(4, 0, 0, 0, 0, 0), "evil"...)...)
	if errno := second(g.send(fuse.Write, f, write)); errno != syscall.EBADF {
		t.Errorf("write: %v", errno)
	}
	if b, err := os.ReadFile(filepath.Join(base, "ro/f")); err != nil || string(b) != "text" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

func second(_ []byte, errno syscall.Errno) syscall.Errno { return errno }

// TestLimits checks that handles and nodes are bounded, and that nodes are found again when their
// descriptors were closed.
func TestLimits(t *testing.T) {
	tr, base := newTree(t)
	tr.limit, tr.maxOpen = 10, 4
	g := guest{t, tr}
	rw := g.lookup(fuse.RootID, "0")
	f := g.lookup(rw, "f")
	for i := range 12 {
		if errno := second(g.send(fuse.Open, f, flags(unix.O_RDONLY, 0))); (errno == syscall.ENFILE) != (i >= 10) {
			t.Errorf("open %d: %v", i, errno)
		}
	}
	dirs := []uint64{rw}
	for range 30 {
		dir := dirs[len(dirs)-1]
		if errno := second(g.send(fuse.Mkdir, dir, append(flags(0o755, 0), "deep\x00"...))); errno != 0 {
			t.Fatal(errno)
		}
		dirs = append(dirs, g.lookup(dir, "deep"))
	}
	if tr.open.Len() > 6 {
		t.Errorf("%d descriptors are open", tr.open.Len())
	}
	for _, d := range dirs {
		if errno := second(g.send(fuse.Getattr, d, make([]byte, 16))); errno != 0 {
			t.Errorf("attributes of a directory whose descriptor was closed: %v", errno)
		}
	}
	if err := os.Rename(filepath.Join(base, "rw/deep"), filepath.Join(base, "rw/moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base, filepath.Join(base, "rw/deep")); err != nil {
		t.Fatal(err)
	}
	if out, errno := g.send(fuse.Lookup, dirs[20], []byte("outside\x00")); errno == 0 && binary.LittleEndian.Uint64(out) != 0 {
		t.Error("a link is followed")
	}
}

// TestMountPoint checks that mount points below an export are refused.
func TestMountPoint(t *testing.T) {
	tr, base := newTree(t)
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", filepath.Join(base, "rw/d")).CombinedOutput(); err != nil {
		t.Skipf("mounting needs root: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", filepath.Join(base, "rw/d")).Run() })
	g := guest{t, tr}
	rw := g.lookup(fuse.RootID, "0")
	if errno := second(g.send(fuse.Lookup, rw, []byte("d\x00"))); errno != syscall.EACCES {
		t.Errorf("a mount point: %v", errno)
	}
}

// FuzzServe sends two arbitrary requests to a tree. Nothing panics, and what is outside the exports
// does not change.
func FuzzServe(f *testing.F) {
	f.Add(uint32(fuse.Lookup), uint64(2), []byte("f\x00"), uint32(fuse.Open), uint64(4), make([]byte, 8))
	f.Add(uint32(fuse.Lookup), uint64(2), []byte("..\x00"), uint32(fuse.Setattr), uint64(2), make([]byte, 88))
	f.Add(uint32(fuse.Opendir), uint64(1), make([]byte, 8), uint32(fuse.Readdirplus), uint64(1), append(ints(1, 0), flags(4096, 0, 0, 0, 0, 0)...))
	f.Add(uint32(fuse.Create), uint64(2), append(flags(unix.O_RDWR, 0o7777, 0, 0), "new\x00"...), uint32(fuse.Write), uint64(4), append(ints(1, 0), append(flags(4, 0, 0, 0, 0, 0), "evil"...)...))
	f.Add(uint32(fuse.Symlink), uint64(2), []byte("s\x00../outside\x00"), uint32(fuse.Rename2), uint64(2), append(ints(2), append(flags(2, 0), "s\x00f\x00"...)...))
	f.Fuzz(func(t *testing.T, op1 uint32, node1 uint64, body1 []byte, op2 uint32, node2 uint64, body2 []byte) {
		tr, base := newTree(t)
		g := guest{t, tr}
		g.lookup(g.lookup(fuse.RootID, "0"), "f")
		g.send(fuse.Opcode(op1), node1, body1)
		g.send(fuse.Opcode(op2), node2, body2)
		if b, err := os.ReadFile(filepath.Join(base, "outside")); err != nil || string(b) != "text" {
			t.Errorf("the file outside is %q, %v", b, err)
		}
		if b, err := os.ReadFile(filepath.Join(base, "ro/f")); err != nil || string(b) != "text" {
			t.Errorf("the read-only file is %q, %v", b, err)
		}
		tr.close()
	})
}

// close closes the descriptors of a tree.
func (t *Tree) close() {
	for _, h := range t.handles {
		if h.fd >= 0 {
			unix.Close(h.fd)
		}
	}
	for e := t.open.Front(); e != nil; e = e.Next() {
		unix.Close(e.Value.(*node).fd)
	}
	for _, n := range t.roots {
		unix.Close(n.fd)
	}
	unix.Close(t.proc)
}
