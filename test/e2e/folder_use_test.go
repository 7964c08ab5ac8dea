package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// owner is the host uid that owns the folders of these tests: neither root nor the uid of the guest
// user.
const owner = 4321

// use does with folders what users and programs do, in both sharing modes, from the guest and from the
// host, and tests host-executed and protected files.
func (f *firstVM) use(t *testing.T) {
	w, vm := f.w, f.vm
	root, own, prot := w.project("root"), w.project("own"), w.project("prot")
	hook := filepath.Join(prot, ".git/hooks/pre-commit")
	for path, text := range map[string]string{hook: "#!/bin/sh\n", filepath.Join(prot, ".git/config"): "[core]\n", filepath.Join(prot, ".git/HEAD"): "ref: refs/heads/main\n", filepath.Join(prot, "Makefile"): "all:\n", filepath.Join(prot, "web/package.json"): "{}\n"} {
		write(t, path, text, 0o644)
	}
	chownAll(t, prot)
	before := manifest(t, prot)
	// Review the changes of earlier groups, so that status reports only those of this one.
	w.must(f.project, "attach", ".", "--reviewed")
	if other := filepath.Join(w.home, "work", "p"); exists(other) {
		w.must(other, "attach", ".", "--reviewed")
	}

	step := w.steps()
	step("attach", func(t *testing.T) { attachAll(t, w, vm, root, own, prot) })
	step("used from the guest", func(t *testing.T) { useInGuest(t, w, vm, root, own) })
	step("used from the host", func(t *testing.T) { useOnHost(t, w, vm, root, own) })
	step("host-executed files", func(t *testing.T) { checkHostExecuted(t, w, vm, root) })
	step("protected files", func(t *testing.T) { checkProtected(t, w, vm, prot, before) })
	step("a folder with its own device", func(t *testing.T) { checkOwnDevice(t, w, vm, own) })
}

// project creates a folder that belongs to owner.
func (w *world) project(name string) string {
	w.t.Helper()
	dir := filepath.Join(w.home, "use", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	chownAll(w.t, dir)
	return dir
}

func chownAll(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, owner, owner)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func attachAll(t *testing.T, w *world, vm, root, own, prot string) {
	write(t, filepath.Join(root, "Makefile"), "all:\n", 0o644)
	write(t, filepath.Join(root, ".envrc"), "true\n", 0o644)
	chownAll(t, root)
	if r := w.must(root, "code", ".", "--yes"); !strings.Contains(r.stderr, "can write them now: .envrc, Makefile") {
		t.Errorf("code does not name the host-executed files: %s", r.stderr)
	}
	var res struct {
		Mode     string
		Protect  bool
		Executed []string
	}
	if err := json.Unmarshal([]byte(w.must(own, "attach", ".", "--mode", "shared", "--yes", "--json").stdout), &res); err != nil || res.Mode != "shared" || res.Protect || len(res.Executed) != 0 {
		t.Errorf("%+v %v", res, err)
	}
	if err := json.Unmarshal([]byte(w.must(prot, "attach", ".", "--yes", "--json").stdout), &res); err != nil || res.Protect || len(res.Executed) != 4 {
		t.Errorf("%+v %v", res, err)
	}
	// It is protected afterwards, while the guest has it mounted and has read its files.
	w.guest(vm, "cat "+prot+"/Makefile "+prot+"/.git/config >/dev/null && echo x >>"+prot+"/Makefile && sed -i '$d' "+prot+"/Makefile")
	chownAll(t, prot)
	if err := json.Unmarshal([]byte(w.must(prot, "attach", ".", "--protect", "--json").stdout), &res); err != nil || !res.Protect {
		t.Errorf("%+v %v", res, err)
	}
	if r := w.must(prot, "list", "--json"); !strings.Contains(r.stdout, `"protect":true`) {
		t.Errorf("%+v", r)
	}
	if got := w.guest(vm, "for i in $(seq 60); do systemctl is-active -q aivm-folders-guard && break; sleep 1; done; systemctl is-active aivm-folders-guard"); got != "active" {
		t.Errorf("aivm-folders-guard in the guest is %s", got)
	}
}

// useScript does file system operations of many kinds in its directory arguments, compares the
// results, and prints the entries of the first directory as JSON (see entry).
const useScript = `
import fcntl, hashlib, json, mmap, os, socket, sqlite3, stat, subprocess, sys
def use(top):
    os.makedirs(top, exist_ok=True)
    os.chdir(top)
    os.umask(0o022)
    b = os.fsencode
    def put(name, text, mode=0o644):
        with open(name, "wb") as f: f.write(text)
        os.chmod(name, mode)
    put("created", b"one\n")
    with open("created", "ab") as f: f.write(b"two\n")
    put("edited", b"x" * 100000)
    with open("edited", "r+b") as f: f.seek(50000); f.write(b"EDIT"); f.truncate(70000)
    put("a", b"renamed\n"); os.rename("a", "b")
    put("over", b"old\n"); put("over.new", b"new\n"); os.replace("over.new", "over")
    for mode in (0o600, 0o755, 0o444, 0o700, 0o2755 & 0o777): put("mode%o" % mode, b"m", mode)
    os.mkdir("dir", 0o750); put("dir/in", b"in"); os.rename("dir", "dir2"); os.makedirs("deep/" * 20 + "end")
    put("link1", b"hard\n"); os.link("link1", "link2"); assert os.stat("link2").st_nlink == 2 and os.path.samefile("link1", "link2")
    os.symlink("b", "symlink"); os.symlink("nowhere/at/all", "dangling"); os.symlink("..", "dir2/up"); assert open("symlink").read() == "renamed\n"
    put("n" * 255, b"long"); put(b"not \xff\xfe text", b"bytes"); put("line\nbreak", b"break"); put("sp ace '\"\\ $x", b"quote"); put("\u00e4\u00f6 \U0001f600", b"utf8")
    try: put("n" * 256, b""); raise SystemExit("a name that is too long was taken")
    except OSError as e: assert e.errno == 36, e
    put("mtime", b"t"); os.utime("mtime", ns=(1234567890123456789, 1234567890987654321)); assert os.stat("mtime").st_mtime_ns == 1234567890987654321
    put("gone", b""); fd = os.open("gone", os.O_RDWR); os.unlink("gone"); os.write(fd, b"still"); assert os.pread(fd, 9, 0) == b"still"; os.close(fd)
    put("locked", b""); f = open("locked", "r+b"); fcntl.flock(f, fcntl.LOCK_EX)
    lock = "import fcntl,sys\nf=open('locked','r+b')\ntry: fcntl.%s(f, fcntl.LOCK_EX|fcntl.LOCK_NB)\nexcept OSError: sys.exit(7)\n"
    assert subprocess.run([sys.executable, "-c", lock % "flock"]).returncode == 7, "flock does not exclude"
    fcntl.flock(f, fcntl.LOCK_UN); fcntl.lockf(f, fcntl.LOCK_EX)
    assert subprocess.run([sys.executable, "-c", lock % "lockf"]).returncode == 7, "fcntl does not exclude"
    f.close()
    put("mapped", b"\0" * 8192)
    with open("mapped", "r+b") as f, mmap.mmap(f.fileno(), 8192) as m: m[4000:4006] = b"mapped"; m.flush()
    assert open("mapped", "rb").read()[4000:4006] == b"mapped"
    for journal in ("delete", "wal"):
        db = sqlite3.connect(journal + ".db"); db.execute("pragma journal_mode=" + journal)
        with db: db.execute("create table t(x)"); db.executemany("insert into t values(?)", ((i,) for i in range(500)))
        other = sqlite3.connect(journal + ".db"); assert other.execute("select sum(x) from t").fetchall() == [(124750,)]; other.close()
        db.execute("pragma journal_mode=delete"); assert db.execute("pragma integrity_check").fetchall() == [("ok",)]; db.close()
        os.unlink(journal + ".db")
    s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen(1)
    c = socket.socket(socket.AF_UNIX); c.connect("sock"); a, _ = s.accept(); a.send(b"hi"); assert c.recv(2) == b"hi"
    os.mkfifo("fifo", 0o640)
    with open("sparse", "wb") as f: f.truncate(10 << 20)
    for i in range(100):
        os.makedirs("many/%02d" % (i % 10), exist_ok=True); put("many/%02d/f%d" % (i % 10, i), b"%d" % i)
    for i in range(0, 100, 3): os.unlink("many/%02d/f%d" % (i % 10, i))
    out = []
    for dp, dn, fn in os.walk(b"."):
        for n in dn + fn:
            p = os.path.join(dp, n); st = os.lstat(p); e = {"p": os.path.relpath(p, b".").hex(), "m": st.st_mode}
            if stat.S_ISREG(st.st_mode): e["h"] = hashlib.sha256(open(p, "rb").read()).hexdigest(); e["n"] = st.st_nlink
            if stat.S_ISLNK(st.st_mode): e["h"] = os.readlink(p).hex()
            if n == b"mtime": e["t"] = st.st_mtime_ns
            out.append(e)
    out.sort(key=lambda e: e["p"])
    return out
ref = use(sys.argv[1])
for top in sys.argv[2:]:
    got = use(top)
    if got != ref: raise SystemExit("the guest sees something else in %s than on its own disk: %r" % (top, [x for x in got if x not in ref]))
print(json.dumps(ref))
`

// entry is one file of a folder, as useScript prints it.
type entry struct {
	P string `json:"p"` // path, hexadecimal
	M uint32 `json:"m"` // st_mode
	H string `json:"h"` // SHA-256 of the content, or the link's target in hexadecimal
	N uint64 `json:"n"` // number of links
	T int64  `json:"t"` // modification time in ns
}

// manifest lists all entries of a folder, sorted by path, and checks that they belong to owner.
func manifest(t *testing.T, dir string) []entry {
	t.Helper()
	var out []entry
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Uid != owner || st.Gid != owner {
			t.Errorf("%q belongs to %d:%d", p, st.Uid, st.Gid)
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		e := entry{P: hex.EncodeToString([]byte(rel)), M: st.Mode}
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(b)
			e.H, e.N = hex.EncodeToString(sum[:]), uint64(st.Nlink) //nolint:unconvert // differs between architectures
		case info.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			e.H = hex.EncodeToString([]byte(to))
		}
		if d.Name() == "mtime" {
			e.T = info.ModTime().UnixNano()
		}
		out = append(out, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].P < out[j].P })
	return out
}

func differences(a, b []entry) string {
	in := map[entry]int{}
	for _, e := range a {
		in[e]++
	}
	for _, e := range b {
		in[e]--
	}
	var out strings.Builder
	for e, n := range in {
		if name, _ := hex.DecodeString(e.P); n != 0 {
			fmt.Fprintf(&out, "%+d %q %o %d names, time %d\n", n, name, e.M, e.N, e.T)
		}
	}
	return out.String()
}

func useInGuest(t *testing.T, w *world, vm, root, own string) {
	r := w.ssh([]byte(useScript), vm, "python3 - /home/agent/ref "+root+"/use "+own+"/use")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	var want []entry
	if err := json.Unmarshal([]byte(r.stdout), &want); err != nil || len(want) < 100 {
		t.Fatalf("%d entries, %v", len(want), err)
	}
	for _, dir := range []string{root, own} {
		if d := differences(want, manifest(t, dir+"/use")); d != "" {
			t.Errorf("%s differs between host and guest:\n%s", dir, d)
		}
	}
}

// useOnHost creates 10,000 files on the host, which the guest must see unchanged, and edits a file
// that the guest has read.
func useOnHost(t *testing.T, w *world, vm, root, own string) {
	for _, dir := range []string{root, own} {
		for i := range 10000 {
			if i%500 == 0 {
				if err := os.MkdirAll(fmt.Sprintf("%s/here/%d", dir, i/500), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(fmt.Sprintf("%s/here/%d/f%d", dir, i/500, i), fmt.Appendf(nil, "%d", i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		chownAll(t, dir+"/here")
		if got := w.guest(vm, "cd "+dir+"/here && find . -type f -user agent -size -2 | wc -l && cat 7/f3999 && mv 7 seven && rm seven/f3999"); got != "10000\n3999" {
			t.Errorf("%s: the guest sees %q", dir, got)
		}
		if _, err := os.Stat(dir + "/here/seven/f3998"); err != nil {
			t.Error(err)
		}
		write(t, dir+"/here/seven/f3998", "edited here", 0o644)
		mtime := time.Unix(1600000000, 123456789)
		if err := os.Chtimes(dir+"/here/seven/f3998", mtime, mtime); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond) // with cache=auto the guest caches metadata for 1 s
		if got := w.guest(vm, "cd "+dir+"/here/seven && cat f3998 && stat -c ' %Y' f3998"); got != "edited here 1600000000" {
			t.Errorf("%s: the guest sees %q", dir, got)
		}
		n := len(manifest(t, dir+"/here"))
		if n != 10000+20-1 {
			t.Errorf("%s/here has %d entries", dir, n)
		}
	}
}

func checkHostExecuted(t *testing.T, w *world, vm, root string) {
	type status struct {
		Checks   []struct{ ID, State, Detail string }
		Executed []struct {
			Folder, Path, Change string
			Silent               bool
		}
	}
	readStatus := func() (state string, st status) {
		t.Helper()
		if err := json.Unmarshal([]byte(w.must(root, "status", "--json").stdout), &st); err != nil {
			t.Fatal(err)
		}
		for _, c := range st.Checks {
			if c.ID == "executed" {
				state = c.State
			}
		}
		return state, st
	}
	if state, st := readStatus(); state != "ok" || len(st.Executed) != 0 {
		t.Errorf("%s %+v %+v", state, st.Executed, st.Checks)
	}
	w.guest(vm, "cd "+root+" && mkdir -p .vscode && echo '{}' >.vscode/tasks.json && echo evil >>.envrc && rm Makefile && ln -s /etc/passwd Makefile")
	state, st := readStatus()
	if state != "bad" || len(st.Executed) != 3 {
		t.Fatalf("%s %+v", state, st.Executed)
	}
	for i, want := range []string{".envrc changed true", ".vscode/tasks.json new true", "Makefile link false"} {
		e := st.Executed[i]
		if got := fmt.Sprintf("%s %s %v", e.Path, e.Change, e.Silent); got != want || e.Folder != root {
			t.Errorf("%s, want %s", got, want)
		}
	}
	w.must(root, "attach", ".", "--reviewed")
	if state, st := readStatus(); state != "ok" || len(st.Executed) != 0 {
		t.Errorf("after --reviewed: %s %+v", state, st.Executed)
	}
}

// attack is a script for the guest's root. It tries to change protected files and prints each attempt
// that succeeds.
const attack = `cd "$1" || exit 1
did() { if sh -c "$1" >/dev/null 2>&1; then echo "did: $1"; fi; }
did 'echo evil >Makefile'; did 'echo evil >.git/hooks/post-checkout'; did 'echo evil >>.git/config'; did 'echo evil >web/package.json'
did 'mv .git .git2'; did 'mv .git/hooks .git/h2'; did 'rm -rf .git/hooks'; did 'mv web web2'; did 'rm -f Makefile'; did 'echo evil >n; mv -f n Makefile'; rm -f n
did 'ln Makefile other'; did 'chmod 777 Makefile'; did 'chown 0 .git/config'; did 'touch -d @1 Makefile'; did 'setfattr -n user.x -v y Makefile'
did 'mount -o remount,rw "$PWD" && echo evil >Makefile'
did 'umount -l "$PWD"; for d in /run/aivm/share/prot-*; do echo evil >$d/Makefile; done'
did 'mkdir /tmp/again; mount -t virtiofs aivm-root /tmp/again; for d in /tmp/again/prot-*; do echo evil >$d/Makefile; done'
umount /tmp/again
exit 0
`

func checkProtected(t *testing.T, w *world, vm, prot string, before []entry) {
	r := w.ssh([]byte(attack), vm, "sudo -n sh -s "+prot)
	if r.code != 0 || r.stdout != "" {
		t.Errorf("%+v", r)
	}
	if d := differences(before, manifest(t, prot)); d != "" {
		t.Errorf("the guest changed:\n%s", d)
	}
	w.must(prot, "attach", ".") // mounts the folder again, which the attack unmounted
	// The guest can write all other files, the host all.
	w.guest(vm, "cd "+prot+" && echo a >main.go && mv main.go web/ && echo x >.git/index && mkdir sub && rmdir sub")
	for _, cmd := range []string{"mv Makefile M && mv M Makefile", "echo all2: >N && mv N Makefile", "mv web web2 && mv web2 web", "echo h >.git/hooks/mine", "rm .git/hooks/mine"} {
		runHost(t, "sh", "-c", "cd "+prot+" && "+cmd)
	}
	chownAll(t, prot)
	// The next command protects files again that were replaced on the host.
	if r := w.must(prot, "status"); !strings.Contains(r.stdout, "not fully protected: Makefile was replaced") {
		t.Errorf("%s", r.stdout)
	}
	w.must(prot, "code", ".")
	if r := w.ssh([]byte(attack), vm, "sudo -n sh -s "+prot); r.code != 0 || r.stdout != "" {
		t.Errorf("%+v", r)
	}
	w.must(prot, "detach", ".")
	if b, err := os.ReadFile(filepath.Join(prot, "Makefile")); err != nil || string(b) != "all2:\n" {
		t.Errorf("%q %v", b, err)
	}
	if out := runHost(t, "cat", "/proc/self/mountinfo"); strings.Contains(out, "/prot-") {
		t.Error("the folder's mounts still exist after detach")
	}
}

// checkOwnDevice tests --mode shared: read-only access, other options refused, detach of a folder in
// use, and the removal of the devices.
func checkOwnDevice(t *testing.T, w *world, vm, own string) {
	ro := w.project("ro")
	write(t, filepath.Join(ro, "f"), "only to read\n", 0o644)
	w.must(ro, "attach", ".", "--mode", "shared", "--access", "ro", "--yes")
	if r := w.ssh(nil, vm, "cat "+ro+"/f; sudo -n mount -o remount,rw "+ro+"; sudo -n touch "+ro+"/x"); r.code == 0 || r.stdout != "only to read\n" {
		t.Errorf("%+v", r)
	}
	if r := w.aivm(ro, "attach", ".", "--mode", "shared-root"); r.code != 2 || !strings.Contains(r.stderr, "aivm detach") {
		t.Errorf("attach with another mode: %+v", r)
	}
	devices := func() (live, stored int) {
		return strings.Count(virsh(t, "dumpxml", vm), "virtiofs'"), strings.Count(virsh(t, "dumpxml", vm, "--inactive"), "virtiofs'")
	}
	if live, stored := devices(); live != 3 || stored != 3 {
		t.Errorf("%d devices, %d in the definition", live, stored)
	}
	before := manifest(t, own)
	// A folder in use in the guest is not detached and stays unchanged.
	w.guest(vm, "sh -c 'cd "+own+" && exec sleep 600' >/dev/null 2>&1 </dev/null & echo")
	if r := w.aivm(own, "detach", "."); r.code != 2 || !strings.Contains(r.stderr, "sleep (pid") {
		t.Errorf("%+v", r)
	}
	if got := w.guest(vm, "ls "+own+"; pkill -f '[s]leep 600'"); got != "here\nuse" {
		t.Errorf("the guest sees %q", got)
	}
	for _, dir := range []string{own, ro} {
		w.must(dir, "detach", ".")
	}
	if live, stored := devices(); live != 1 || stored != 1 {
		t.Errorf("%d devices, %d in the definition after detach", live, stored)
	}
	if out, _ := w.run("", nil, nil, "pgrep", "-f", "virtiofsd.*"+vm+"/own-").stdout, 0; out != "" {
		t.Errorf("its virtiofsd still runs: %s", out)
	}
	if !reflect.DeepEqual(before, manifest(t, own)) {
		t.Error("detaching changed the folder")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
