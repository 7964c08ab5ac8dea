package tree

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

// TestForgottenParents checks that directories which the guest has forgotten, but whose entries it
// knows, count as nodes: otherwise a guest could make the server remember any number of them.
func TestForgottenParents(t *testing.T) {
	tr, _ := newTree(t)
	tr.maxNodes = 50 // and the root of the export
	g := guest{t, tr}
	rw := g.lookup(fuse.RootID, "0")
	forget := func(id uint64) { g.send(fuse.Forget, id, ints(1)) }
	for round := range 3 {
		ids := []uint64{rw}
		var errno syscall.Errno
		for range 100 {
			var out []byte
			if out, errno = g.send(fuse.Mkdir, ids[len(ids)-1], append(flags(0o755, 0), fmt.Sprintf("d%d\x00", round)...)); errno != 0 {
				break
			}
			ids = append(ids, binary.LittleEndian.Uint64(out))
			if len(ids) > 2 {
				forget(ids[len(ids)-2]) // its entry stays known
			}
		}
		if errno != syscall.ENFILE || len(ids) > 51 {
			t.Errorf("round %d: %d directories in memory, %v", round, len(ids), errno)
		}
		forget(ids[len(ids)-1]) // and with it everything above
	}
	if len(tr.nodes) > 3 {
		t.Errorf("%d nodes are left", len(tr.nodes))
	}
	if errno := second(g.send(fuse.Lookup, rw, []byte("f\x00"))); errno != 0 {
		t.Errorf("after all is forgotten: %v", errno)
	}
}

// TestForgottenHandle checks that a node which an open directory refers to counts, with those above.
func TestForgottenHandle(t *testing.T) {
	tr, _ := newTree(t)
	tr.maxNodes = 20
	g := guest{t, tr}
	rw := g.lookup(fuse.RootID, "0")
	var handles []uint64
	dir := rw
	for range 10 {
		out, errno := g.send(fuse.Mkdir, dir, append(flags(0o755, 0), "deep\x00"...))
		if errno != 0 {
			t.Fatal(errno)
		}
		next := binary.LittleEndian.Uint64(out)
		if out, errno = g.send(fuse.Opendir, next, make([]byte, 8)); errno != 0 {
			t.Fatal(errno)
		}
		handles = append(handles, binary.LittleEndian.Uint64(out))
		if dir != rw {
			g.send(fuse.Forget, dir, ints(1))
		}
		dir = next
	}
	g.send(fuse.Forget, dir, ints(1))
	made := 0
	for i := range 20 {
		if errno := second(g.send(fuse.Mkdir, rw, append(flags(0o755, 0), fmt.Sprintf("n%d\x00", i)...))); errno == 0 {
			made++
		}
	}
	if made > 10 {
		t.Errorf("%d more directories than 10 that are open are remembered", made)
	}
	for _, h := range handles {
		if errno := second(g.send(fuse.Releasedir, rw, append(ints(h), flags(0, 0, 0, 0)...))); errno != 0 {
			t.Errorf("closing a directory: %v", errno)
		}
	}
	if errno := second(g.send(fuse.Lookup, rw, []byte("deep\x00"))); errno != 0 {
		t.Errorf("after the directories were closed: %v", errno)
	}
}

// TestDirectoryBuffers checks that directories which are read half use little memory, and that they
// can be read to the end.
func TestDirectoryBuffers(t *testing.T) {
	const handles, entries = 2000, 700
	tr, base := newTree(t)
	if tr.limit < handles {
		t.Skipf("the limit is %d handles", tr.limit)
	}
	for i := range entries {
		if err := os.WriteFile(filepath.Join(base, "rw/d", fmt.Sprintf("a-name-of-some-length-%d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := guest{t, tr}
	dir := g.lookup(g.lookup(fuse.RootID, "0"), "d")
	read := func(h, offset uint64) (count int, next uint64) {
		out, errno := g.send(fuse.Readdir, dir, append(ints(h, offset), flags(4096, 0, 0, 0, 0, 0)...))
		if errno != 0 {
			t.Fatal(errno)
		}
		for len(out) >= 24 {
			next = binary.LittleEndian.Uint64(out[8:])
			out = out[min(len(out), int(24+binary.LittleEndian.Uint32(out[16:])+7)&^7):]
			count++
		}
		return count, next
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	type half struct {
		handle, next uint64
		count        int
	}
	var open []half
	for range handles {
		out, errno := g.send(fuse.Opendir, dir, make([]byte, 8))
		if errno != 0 {
			t.Fatal(errno)
		}
		h := half{handle: binary.LittleEndian.Uint64(out)}
		h.count, h.next = read(h.handle, 0)
		open = append(open, h)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; n > 16 {
		t.Errorf("%d directories that are read half use %d MiB", handles, n)
	}
	for _, h := range []half{open[0], open[handles-1]} {
		for {
			n, next := read(h.handle, h.next)
			if n == 0 {
				break
			}
			h.count, h.next = h.count+n, next
		}
		if h.count != entries+2 {
			t.Errorf("%d of %d entries are listed", h.count, entries+2)
		}
	}
	tr.close()
}

// TestNotedBefore checks that a change is reported before it is done: a server that is killed in
// between has reported it.
func TestNotedBefore(t *testing.T) {
	tr, base := newTree(t)
	var noted []string
	state := func(name string) string {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(base, "rw", name), &st); err != nil {
			return "none"
		}
		return fmt.Sprintf("%o %d", st.Mode, st.Nlink)
	}
	tr.changed = func(_ int, rel string) { noted = append(noted, rel+" "+state(rel)) }
	g := guest{t, tr}
	rw := g.lookup(fuse.RootID, "0")
	f := g.lookup(rw, "f")
	expect := func(what string, errno syscall.Errno, names ...string) {
		t.Helper()
		if errno != 0 || fmt.Sprint(noted) != fmt.Sprint(names) {
			t.Errorf("%s: %v, noted %q, not %q", what, errno, noted, names)
		}
		noted = nil
	}
	was := state("f")
	expect("chmod", second(g.send(fuse.Setattr, f, append(flags(fuse.SetMode), make([]byte, 84)...))), "f "+was)
	was = state("f")
	expect("link", second(g.send(fuse.Link, rw, append(ints(f), "g\x00"...))), "f "+was, "g none")
	expect("create", second(g.send(fuse.Create, rw, append(flags(unix.O_WRONLY, 0o644, 0, 0), "new\x00"...))), "new none")
	expect("mkdir", second(g.send(fuse.Mkdir, rw, append(flags(0o755, 0), "dir\x00"...))), "dir none")
	was = state("new")
	expect("rename", second(g.send(fuse.Rename, rw, append(ints(rw), "new\x00old\x00"...))), "new "+was, "old none")
	expect("unlink", second(g.send(fuse.Unlink, rw, []byte("old\x00"))), "old "+was)
	was = state("d")
	expect("rmdir", second(g.send(fuse.Rmdir, rw, []byte("d\x00"))), "d "+was)
}
