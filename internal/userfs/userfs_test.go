package userfs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/userfs/jail"
)

// TestJails starts a server in each jail, as doctor does.
func TestJails(t *testing.T) {
	for _, r := range Jails(context.Background()) {
		if r.Err != nil {
			t.Errorf("%s: %v", r.Kind, r.Err)
		}
	}
}

// TestFiles does what programs do with files, as the user in the guest.
func TestFiles(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		tr := newTrial(t, kind)
		out := tr.run(asUser(`
			[ "$(ls)" = "$(printf "0\n1")" ]
			cd 0
			echo hello >a; [ "$(cat a)" = hello ]; [ "$(stat -c %u:%g:%a a)" = 4410:4410:644 ]
			echo more >>a; [ "$(wc -l <a)" = 2 ]
			mkdir -p d/e/f; echo x >d/e/f/g; mv d/e d/h; [ "$(cat d/h/f/g)" = x ]
			ln a b; [ "$(stat -c %h a)" = 2 ]; [ "$(stat -c %i a)" = "$(stat -c %i b)" ]
			ln -s d/h s; [ "$(readlink s)" = d/h ]; [ -f s/f/g ]
			ln s t; [ -h t ]
			mv -n a b; [ -e a ]
			mv --exchange a d 2>/dev/null || true
			truncate -s 100000 big; [ "$(stat -c %s big)" = 100000 ]
			fallocate -l 200000 big; [ "$(stat -c %s big)" = 200000 ]
			fallocate -p -o 0 -l 65536 big
			dd if=/dev/urandom of=data bs=1M count=20 status=none; cp data copy; cmp data copy
			cp --sparse=always big sparse; cmp big sparse
			touch -d 2001-02-03T04:05:06.789Z a; [ "$(stat -c %y a | cut -c1-23)" = "2001-02-03 04:05:06.789" ]
			touch -h -d 2001-02-03 s
			chmod 600 b; [ "$(stat -c %a b)" = 600 ]
			for i in $(seq 1 500); do echo $i >d/n$i; done; [ "$(ls d | wc -l)" = 501 ]
			rm -r d; [ ! -e d ]
			exec 5<>unlinked; echo text >&5; rm unlinked; [ "$(stat -L -c %h /proc/self/fd/5)" = 0 ]; [ "$(cat /proc/self/fd/5)" = text ]
			setfattr -n user.x -v y a 2>/dev/null && [ "$(getfattr --only-values -n user.x a)" = y ] || true
			flock a true
			sync data; df . >/dev/null
			printf "\xff\xfe" >"$(printf "n\xff\xfe")"; ls | grep -qa n
			python3 -c "
import os, mmap
f = open(\"mm\", \"w+b\"); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[4096:4100] = b\"abcd\"; m.flush(); m.close(); f.close()
assert open(\"mm\",\"rb\").read()[4096:4100] == b\"abcd\"
a = os.open(\"a\", os.O_RDONLY); b = os.open(\"cfr\", os.O_WRONLY|os.O_CREAT)
assert os.copy_file_range(a, b, 4) == 4 and open(\"cfr\").read() == \"hell\"
f = open(\"hole\", \"w+b\"); f.truncate(1<<20); f.seek(1<<19); f.write(b\"x\"); f.flush()
assert os.lseek(f.fileno(), 0, os.SEEK_DATA) == 1<<19
os.setxattr(\"a\", \"user.k\", b\"v\"*3000); assert os.getxattr(\"a\", \"user.k\") == b\"v\"*3000; assert os.listxattr(\"a\") == [\"user.k\"] or \"user.x\" in os.listxattr(\"a\"); os.removexattr(\"a\", \"user.k\")
for n in (\"trusted.x\", \"security.x\"):
    try: os.setxattr(\"a\", n, b\"1\"); assert False
    except OSError as e: pass
"
			echo done`))
		if out != "done" {
			t.Errorf("the script printed %q", out)
		}
		if got, err := os.ReadFile(tr.Dir + "/0/data"); err != nil || len(got) != 20<<20 {
			t.Errorf("data on the host: %d bytes, %v", len(got), err)
		}
	})
}

// TestGuestRoot checks what root in the guest can do: files belong to the user, privileges do not
// reach the host.
func TestGuestRoot(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		tr := newTrial(t, kind)
		tr.write("0/hostfile", "x")
		if err := syscall.Mkfifo(tr.Dir+"/0/fifo", 0o666); err != nil {
			t.Fatal(err)
		}
		tr.run(`cd 0
			touch new; [ "$(stat -c %u new)" = 4410 ]
			chown 0:0 new; chown 1:1 hostfile; chown -h 4410:4410 new
			install -m 4755 /bin/true prog; chmod 6755 prog; mkdir -m 2777 setgid; chmod 6777 setgid
			! mknod dev c 1 3; ! mkfifo pipe; ! python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")"
			! ln fifo fifo2
			mkdir x; echo 1 >x/y; chown 77:77 x/y; tar cf - x | (mkdir z; cd z; tar xpf -)
			[ "$(cat z/x/y)" = 1 ]
			! setfattr -n security.capability -v 0x0100000202000000000000000000000000000000 prog 2>/dev/null
			! mkdir ../new; ! touch ../f; ! rm -r ../1 2>/dev/null; ! mv hostfile ../1/ ; ! ln hostfile ../1/h
			! touch ../1/f; ! sh -c "echo >>../1/file"; ! chmod 777 ../1/file; ! truncate -s 0 ../1/file; ! rm -f ../1/file; cat ../1/file
			! ln ../1/file stolen; ! mv ../1/file stolen`)
		names, err := filepath.Glob(tr.Dir + "/0/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			var st syscall.Stat_t
			if err := syscall.Lstat(n, &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid != testUID || st.Mode&0o6000 != 0 {
				if filepath.Base(n) != "fifo" {
					t.Errorf("%s has owner %d and mode %o", filepath.Base(n), st.Uid, st.Mode)
				}
			}
			if k := st.Mode & syscall.S_IFMT; k != syscall.S_IFREG && k != syscall.S_IFDIR && filepath.Base(n) != "fifo" {
				t.Errorf("%s has type %o", n, k)
			}
		}
	})
}

// TestHostEdits checks that the guest sees changes of the host within about a second, and the host
// those of the guest at once.
func TestHostEdits(t *testing.T) {
	tr := newTrial(t, jail.Namespaces)
	tr.write("0/f", "one\n")
	cmd := tr.command(asUser(`cd 0; cat f; cat f; echo ready >ready
		for i in $(seq 1 60); do sleep 0.1; if [ "$(cat f)" = two ] && [ -e fresh ] && [ ! -e gone ] ; then echo $i; exit 0; fi; done; echo never; exit 1`))
	tr.write("0/gone", "")
	go func() {
		for range 300 {
			if _, err := os.Stat(tr.Dir + "/0/ready"); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		tr.write("0/f.new", "two\n")
		_ = os.Rename(tr.Dir+"/0/f.new", tr.Dir+"/0/f")
		tr.write("0/fresh", "")
		_ = os.Remove(tr.Dir + "/0/gone")
	}()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("seen after %s tenths of a second", strings.TrimSpace(strings.TrimPrefix(string(out), "one\none\n")))
}

// TestWritten checks which files are reported as host-executed.
func TestWritten(t *testing.T) {
	eachJail(t, func(t *testing.T, kind jail.Kind) {
		tr := newTrial(t, kind)
		tr.run(asUser(`cd 0; echo all: >Makefile; mkdir -p .git/hooks sub; echo x >.git/hooks/pre-commit; echo >plain; echo >sub/x; mv sub/x sub/.envrc; rm Makefile`))
		r := tr.end()
		got := map[string]bool{}
		for _, w := range r.Written {
			got[w.Path] = true
			if w.Export != 0 {
				t.Errorf("export %d", w.Export)
			}
		}
		for _, want := range []string{"Makefile", ".git", ".git/hooks/pre-commit", "sub/.envrc"} {
			if !got[want] {
				t.Errorf("%s is not reported: %v", want, r.Written)
			}
		}
		if len(got) != 4 || r.Error != "" {
			t.Errorf("reported %v, error %q", r.Written, r.Error)
		}
	})
}
