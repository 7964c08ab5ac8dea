package userfs

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/jail"
)

// exchanges is how often a component is exchanged in one test.
const exchanges = 10_000

// TestExchange exchanges a directory and a file below it on the host for links to outside, FIFOs and
// files, 10,000 times, while a guest uses the path in every way. What is outside is never read,
// written or listed, and a FIFO is never opened.
func TestExchange(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		tr := newTrial(t, kind)
		in := func(name string) string { return filepath.Join(tr.Dir, "0", name) }
		for _, d := range []string{"dir/sub", "other"} {
			if err := os.MkdirAll(in(d), 0o777); err != nil {
				t.Fatal(err)
			}
		}
		tr.write("0/dir/canary", "inside\n")
		tr.write("0/dir/sub/canary", "inside\n")
		for name, target := range map[string]string{"link": tr.Dir + "/outside", "up": "../../outside", "root": "/etc", "proc": "/proc/self/root/etc"} {
			if err := os.Symlink(target, in("other/"+name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Mkfifo(in("other/fifo"), 0o777); err != nil {
			t.Fatal(err)
		}
		if out, err := execChown(tr.Dir + "/0"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		before := snapshot(t, tr.Dir+"/outside")

		// The guest's own kernel would follow the links in the guest, where they lead to the guest's
		// files: these names must not exist there, so the guest is in a root of its own.
		cmd := tr.command(guestLoop(tr.Dir))
		out := &strings.Builder{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var opened atomic.Int32
		stop := make(chan struct{})
		go watchFIFO(in("other/fifo"), &opened, stop)
		for i := range exchanges {
			name := []string{"link", "up", "root", "proc", "fifo"}[i%5]
			what := []string{"dir", "dir/sub", "dir/canary"}[i/5%3]
			if err := unix.Renameat2(unix.AT_FDCWD, in(what), unix.AT_FDCWD, in("other/"+name), unix.RENAME_EXCHANGE); err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Microsecond)
			if err := unix.Renameat2(unix.AT_FDCWD, in(what), unix.AT_FDCWD, in("other/"+name), unix.RENAME_EXCHANGE); err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
				t.Fatal(err)
			}
		}
		close(stop)
		if err := os.WriteFile(in("stop"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the guest: %v\n%s", err, out)
		}
		if strings.Contains(out.String(), "secret") || strings.Contains(out.String(), "root:") {
			t.Errorf("the guest read a file outside:\n%s", out)
		}
		if after := snapshot(t, tr.Dir+"/outside"); after != before {
			t.Errorf("outside changed:\n%s\n%s", before, after)
		}
		if n := opened.Load(); n > 0 {
			t.Errorf("the FIFO was opened %d times", n)
		}
		t.Logf("the guest: %s", out)
	})
}

// guestLoop returns a script that uses dir, dir/sub and dir/canary in many ways until the file stop
// appears. It runs in a root directory that contains only the mount, so a link to outside that the
// guest follows itself leads nowhere.
func guestLoop(dir string) string {
	return `exec 2>/dev/null; cd 0; rounds=0; read=0
		export HOST=` + dir + `
		python3 - <<'EOF'
import os, time
root = os.open(".", os.O_RDONLY)
os.chroot("."); os.chdir("/")
rounds = found = 0
def attempt(f):
    global found
    try:
        f(); found += 1
    except OSError:
        pass
def use(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK); data = os.read(fd, 4096); os.close(fd)
    assert b"secret" not in data and b"root:" not in data, data
def write(path):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK); os.write(fd, b"+"); os.close(fd)
def regular(path):
    return os.lstat(path).st_mode & 0o170000 == 0o100000
def listing(path):
    names = os.listdir(path)
    assert "passwd" not in names and "shadow" not in names, names
def make(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK, 0o600))
def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)); os.unlink(path)
while not os.path.exists("/stop"):
    rounds += 1
    for d in ("/dir", "/dir/sub"):
        attempt(lambda: listing(d))
        attempt(lambda: regular(d + "/canary") and use(d + "/canary"))
        attempt(lambda: regular(d + "/canary") and write(d + "/canary"))
        attempt(lambda: os.lstat(d + "/passwd") and os._exit(7))
        attempt(lambda: create(d + "/fresh"))
        attempt(lambda: make(d + "/moving"))
        attempt(lambda: os.rename(d + "/moving", d + "/moved"))
        attempt(lambda: os.rename(d + "/moved", d + "/moving"))
        attempt(lambda: os.chmod(d + "/canary", 0o640))
        attempt(lambda: os.utime(d + "/canary", (1, 1)))
        attempt(lambda: os.setxattr(d + "/canary", "user.x", b"y"))
        attempt(lambda: os.link(d + "/canary", "/hard%d" % (rounds % 7)))
        attempt(lambda: regular("/hard%d" % (rounds % 7)) and use("/hard%d" % (rounds % 7)))
        attempt(lambda: os.unlink("/hard%d" % (rounds % 7)))
        attempt(lambda: os.mkdir(d + "/made"))
        attempt(lambda: os.rmdir(d + "/made"))
        attempt(lambda: os.readlink(d))
        attempt(lambda: regular(d + "/canary") and os.truncate(d + "/canary", 3))
print(rounds, "rounds,", found, "operations succeeded")
EOF`
}

// watchFIFO counts how often a FIFO that is moved around is opened for reading: then opening it for
// writing without blocking succeeds.
func watchFIFO(path string, opened *atomic.Int32, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
				opened.Add(1)
			}
			unix.Close(fd)
		}
		time.Sleep(time.Millisecond)
	}
}
