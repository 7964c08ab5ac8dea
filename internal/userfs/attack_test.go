package userfs

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
	"aivm.dev/aivm/internal/userfs/jail"
)

// send sends a request to a server, as a guest whose kernel checks nothing, and returns the reply.
func send(t *testing.T, guest *os.File, op fuse.Opcode, node uint64, body []byte) ([]byte, syscall.Errno) {
	t.Helper()
	b := make([]byte, fuse.InHeaderSize, fuse.InHeaderSize+len(body))
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	binary.LittleEndian.PutUint32(b[4:], uint32(op))
	binary.LittleEndian.PutUint64(b[16:], node)
	if _, err := guest.Write(b); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 1<<16)
	if _, err := io.ReadFull(guest, reply[:fuse.OutHeaderSize]); err != nil {
		t.Fatal(err)
	}
	reply = reply[:binary.LittleEndian.Uint32(reply)]
	if _, err := io.ReadFull(guest, reply[fuse.OutHeaderSize:]); err != nil {
		t.Fatal(err)
	}
	return reply[fuse.OutHeaderSize:], syscall.Errno(-int32(binary.LittleEndian.Uint32(reply[4:])))
}

// sendEntry sends a request that is answered with an entry, and returns its node.
func sendEntry(t *testing.T, guest *os.File, op fuse.Opcode, node uint64, body []byte) uint64 {
	t.Helper()
	out, errno := send(t, guest, op, node, body)
	if errno != 0 {
		t.Fatalf("request %d: %v", op, errno)
	}
	return binary.LittleEndian.Uint64(out)
}

// words returns integers of 32 bits and names, the body of a request.
func words(names string, values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return append(b, names...)
}

// TestExportLink checks that a link in the path of an export, which may have appeared after the user
// agreed to the folder, is refused.
func TestExportLink(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/real/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/link", "/link/sub"} {
		dirs, err := openExports([]Export{{Dir: dir + name}})
		closeAll(dirs)
		if err == nil || !strings.Contains(err.Error(), "link") {
			t.Errorf("%s is opened: %v", name, err)
		}
	}
	dirs, err := openExports([]Export{{Dir: dir + "/real/sub"}})
	closeAll(dirs)
	if err != nil {
		t.Errorf("a path without links: %v", err)
	}
}

// TestHostMounts checks that a guest cannot detach the mounts the user has below an export, whether
// they were there when the server started or came later.
func TestHostMounts(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		if os.Geteuid() != 0 {
			t.Skip("mounting needs root")
		}
		runtime.LockOSThread() // the thread ends with the test, and its mounts with it
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Fatal(err)
		}
		for _, flag := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
			if err := unix.Mount("", "/", "", unix.MS_REC|flag, ""); err != nil {
				t.Fatal(err)
			}
		}
		tr := newFolders(t)
		in := func(name string) string { return filepath.Join(tr.Dir, "0", name) }
		for _, d := range []string{"early", "late", "empty"} {
			if err := os.Mkdir(in(d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		tr.write("0/earlyfile", "")
		tr.write("0/plain", "")
		if out, err := execChown(in("")); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		bind := func(from, to string) {
			if err := unix.Mount(filepath.Join(tr.Dir, from), in(to), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(in(to), unix.MNT_DETACH) }) // gone if the test fails
		}
		bind("outside", "early")
		bind("outside/canary", "earlyfile")
		tr.start(kind)
		bind("outside", "late")
		root := sendEntry(t, tr.guest, fuse.Lookup, fuse.RootID, []byte("0\x00"))
		rename := func(names string, flags uint32) ([]byte, syscall.Errno) {
			return send(t, tr.guest, fuse.Rename2, root, append(binary.LittleEndian.AppendUint64(nil, root), words(names, flags, 0)...))
		}
		check := func(what string, _ []byte, errno syscall.Errno) {
			t.Helper()
			if errno != syscall.EACCES {
				t.Errorf("%s: %v", what, errno)
			}
			for _, name := range []string{"early/canary", "earlyfile", "late/canary"} {
				if b, err := os.ReadFile(in(name)); err != nil || string(b) != "secret\n" {
					t.Fatalf("after %s, %s on the host is %q, %v", what, name, b, err)
				}
			}
		}
		try := func(what string, op fuse.Opcode, name string) {
			t.Helper()
			out, errno := send(t, tr.guest, op, root, []byte(name+"\x00"))
			check(what+" "+name, out, errno)
		}
		tryRename := func(what, from, to string, flags uint32) {
			t.Helper()
			out, errno := rename(from+"\x00"+to+"\x00", flags)
			check(what+" "+from+" "+to, out, errno)
		}
		for _, d := range []string{"early", "late"} {
			tryRename("moving away", d, "moved", 0)
			tryRename("exchanging", d, "empty", unix.RENAME_EXCHANGE)
			tryRename("exchanging", "empty", d, unix.RENAME_EXCHANGE)
			tryRename("moving over", "empty", d, 0)
			try("removing", fuse.Rmdir, d)
		}
		tryRename("moving over", "plain", "earlyfile", 0)
		try("removing", fuse.Unlink, "earlyfile")
		if kind == jail.Namespaces { // a mount that the user removes is removed in the jail too
			if err := unix.Unmount(in("late"), 0); err != nil {
				t.Fatal(err)
			}
			if _, errno := send(t, tr.guest, fuse.Rmdir, root, []byte("late\x00")); errno != 0 {
				t.Errorf("removing what was a mount point: %v", errno)
			}
		}
	})
}

// TestWrittenLongPath checks that a long path does not keep the files that are changed after it out
// of the report.
func TestWrittenLongPath(t *testing.T) {
	s, guest := begin(t, jail.Namespaces)
	root := sendEntry(t, guest, fuse.Lookup, fuse.RootID, []byte("0\x00"))
	dir := root
	name := strings.Repeat("x", 250) + "\x00"
	for range 300 {
		dir = sendEntry(t, guest, fuse.Mkdir, dir, words(name, 0o755, 0))
	}
	sendEntry(t, guest, fuse.Mknod, dir, words("Makefile\x00", unix.S_IFREG|0o644, 0, 0, 0))
	sendEntry(t, guest, fuse.Mknod, root, words(".envrc\x00", unix.S_IFREG|0o644, 0, 0, 0))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, cut := s.Written()
	if cut || len(files) != 2 || !strings.HasSuffix(files[0].Path, "/Makefile") || !strings.HasPrefix(files[0].Path, "xxx") || files[1].Path != ".envrc" {
		t.Errorf("reported %d files, cut %v: %.300v", len(files), cut, files)
	}
	r := &reporter{out: json.NewEncoder(io.Discard), seen: map[Written]bool{}}
	for i := range 3 {
		r.changed(0, strings.Repeat("d/", 100_000)+strconv.Itoa(i)+"/Makefile")
	}
	for w := range r.seen {
		if len(w.Path) > 4096 {
			t.Errorf("the server remembers a path of %d bytes", len(w.Path))
		}
	}
}

// TestWrittenUntrusted checks what the parent accepts from a server that was taken over.
func TestWrittenUntrusted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{control: &control{r}, exports: 1}
	out := json.NewEncoder(w)
	go func() {
		defer w.Close()
		for _, e := range []event{{Export: -1}, {Export: 1}, {Path: []byte(strings.Repeat("d/", 50_000) + "Makefile")}, {Path: []byte(".envrc")}} {
			e.Written = true
			_ = out.Encode(e)
		}
	}()
	if err := s.events(nil); err != nil {
		t.Fatal(err)
	}
	if len(s.written) != 2 || s.cut || len(s.written[0].Path) > 4096 || s.written[1] != (Written{0, ".envrc"}) {
		t.Errorf("the parent has %d files, cut %v", len(s.written), s.cut)
	}
}

// TestWrittenLink checks that a file which is changed through another link is reported under the
// name the host uses.
func TestWrittenLink(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		tr := newTrial(t, kind)
		if err := os.Mkdir(tr.Dir+"/0/.git", 0o755); err != nil {
			t.Fatal(err)
		}
		tr.write("0/.git/config", "")
		if out, err := execChown(tr.Dir + "/0"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		tr.run(asUser(`cd 0; ln .git/config x; echo evil >>x; rm x`))
		r := tr.end()
		for _, w := range r.Written {
			if w.Path == ".git/config" {
				return
			}
		}
		t.Errorf("reported %v, error %q", r.Written, r.Error)
	})
}

// TestMemoryLimit checks that the kernel limits the memory of a server.
func TestMemoryLimit(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		s, _ := begin(t, kind)
		b, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID()) + "/limits")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "Max data size") && strings.Contains(line, "unlimited") {
				t.Error(line)
			}
		}
	})
}
