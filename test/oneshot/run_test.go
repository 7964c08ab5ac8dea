package oneshot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// R1, R13: exit status, separate streams, literal arguments, nothing of aivm on stdout.
func TestStreamsAndStatus(t *testing.T) {
	dir := folder(t, nil)
	all := make([]byte, 256*1000)
	for i := range all {
		all[i] = byte(i)
	}
	r := aivm(t, dir, string(all), "run", "--", "sh", "-c", `cat; printf '%s|' "$@" >&2; exit 7`, "sh", "$HOME `id` \"q\" \\", "", "ü*")
	if r.code != 7 || r.out != string(all) || !strings.Contains(r.errout, "$HOME `id` \"q\" \\||ü*|") {
		t.Errorf("status %d, %d bytes, %q", r.code, len(r.out), r.errout)
	}
	if r := aivm(t, dir, "", "run", "--", "sh", "-c", "kill -TERM $$"); r.code != 128+15 || r.out != "" {
		t.Errorf("%+v", r)
	}
	if r := aivm(t, dir, "", "run", "--", "no-such-program"); r.code != 127 || r.out != "" || !strings.Contains(r.errout, "no-such-program") {
		t.Errorf("%+v", r)
	}
	nothingLeft(t)
}

// What aivm refuses has the status 255 and starts no VM.
func TestRefusals(t *testing.T) {
	dir := folder(t, map[string]string{".ssh/id": ""})
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "make"}, "aivm run -- make"},
		{[]string{"run", "--"}, "no command"},
		{[]string{"run", "--workspace", "x", "--", "true"}, "rw, ro or none"},
		{[]string{"run", "--template", "absent", "--", "true"}, "aivm setup --template absent"},
		{[]string{"run", "--workspace", "none", "--mount", "/etc:/data", "--", "true"}, "system"},
		{[]string{"run", "--", "true"}, ".ssh"}, // the folder looks like a home
		{[]string{"run", "--no-such-flag"}, "flag"},
		{[]string{"runs", "exec", "absent", "--", "true"}, "no run named absent"},
	} {
		if r := aivm(t, dir, "", tc.args...); r.code != 255 || r.out != "" || !strings.Contains(r.errout, tc.want) {
			t.Errorf("%q: %+v, want %s", tc.args, r, tc.want)
		}
	}
	nothingLeft(t)
	noRuns(t)
}

// R5, R7: the folder is live, at its own path and at /workspace; files of root belong to the user; links
// lead to the guest's files.
func TestFolder(t *testing.T) {
	top := folder(t, map[string]string{"b c/ü/file": "of the host"})
	dir := filepath.Join(top, "b c", "ü")
	out := run(t, dir, "--", "sh", "-c", `set -e
pwd; cat file; cat /workspace/file; id -u
echo changed >file; echo new >made; sudo touch by-root; sudo chown 0:0 by-root || true
mkdir d; ln -s /etc/hostname link; cat link; cat /etc/hostname
sudo mknod dev c 1 3 2>/dev/null || echo no-device; mkfifo fifo 2>/dev/null || echo no-fifo
cp /bin/true suid; chmod 4755 suid 2>/dev/null || echo no-suid
test -e "`+lab.home+`/.cache" && echo leak; printenv | sort`)
	if !strings.HasPrefix(out, dir+"\nof the hostof the host"+fmt.Sprint(lab.uid)+"\n") {
		t.Errorf("%q", out)
	}
	for _, bad := range []string{"leak", "SECRET", "XDG_"} {
		if strings.Contains(out, bad) {
			t.Errorf("%s in %q", bad, out)
		}
	}
	for _, want := range []string{"AIVM=1", "LANG=C.UTF-8", "TERM=xterm-256color", "no-device", "HOME=/home/user"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %q", want, out)
		}
	}
	for name, want := range map[string]string{"file": "changed\n", "made": "new\n", "by-root": ""} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		var st syscall.Stat_t
		if err != nil || string(b) != want || syscall.Stat(filepath.Join(dir, name), &st) != nil || int(st.Uid) != lab.uid {
			t.Errorf("%s: %q %v, owner %d", name, b, err, st.Uid)
		}
	}
	if st, err := os.Lstat(filepath.Join(dir, "suid")); err != nil || st.Mode()&os.ModeSetuid != 0 {
		t.Errorf("suid: %v %v", st, err)
	}
	for _, name := range []string{"dev", "fifo"} {
		if st, err := os.Lstat(filepath.Join(dir, name)); err == nil && !st.Mode().IsRegular() {
			t.Errorf("%s is a %v", name, st.Mode())
		}
	}
}

// The modes of the folder, and further folders.
func TestModes(t *testing.T) {
	dir, other := folder(t, map[string]string{"file": "x"}), folder(t, map[string]string{"file": "y"})
	out := run(t, dir, "--workspace", "ro", "--mount", other+":/data", "--", "sh", "-c", "cat file /data/file; echo z >/data/file; touch new 2>/dev/null && echo written; sudo touch new 2>/dev/null && echo written; true")
	if out != "xy" {
		t.Errorf("%q", out)
	}
	if b, err := os.ReadFile(filepath.Join(other, "file")); err != nil || string(b) != "z\n" {
		t.Errorf("%q %v", b, err)
	}
	if out := run(t, dir, "--workspace", "none", "--env", "A=1", "--env", "SECRET_OF_THE_HOST", "--", "sh", "-c", "pwd; ls -A /workspace 2>/dev/null; echo $A $SECRET_OF_THE_HOST"); out != "/home/user\n1 leak\n" {
		t.Errorf("%q", out)
	}
}

// R8: files that the host runs are named at the end.
func TestHostExecutedFilesAreNamed(t *testing.T) {
	dir := folder(t, map[string]string{".git/hooks/x": "", ".git/HEAD": "ref: refs/heads/main\n", "plain": ""})
	r := aivm(t, dir, "", "run", "--", "sh", "-c", "echo x >.git/hooks/post-checkout; chmod +x .git/hooks/post-checkout; mkdir -p .vscode; echo '{}' >.vscode/tasks.json; echo x >.envrc; echo y >plain")
	for _, want := range []string{".git/hooks/post-checkout", ".vscode/tasks.json", ".envrc"} {
		if !strings.Contains(r.errout, want) {
			t.Errorf("%s is not named: %q", want, r.errout)
		}
	}
	if r.code != 0 || r.out != "" || strings.Contains(r.errout, "plain") {
		t.Errorf("%+v", r)
	}
}

// R2, R10, R11: runs know nothing of each other, at once and one after another, and leave nothing.
func TestRunsDiffer(t *testing.T) {
	dir := folder(t, nil)
	script := `set -e
sudo sh -c 'test ! -e /root/f; echo x >/root/f'
cat /etc/machine-id; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; echo
cat /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null | cut -d' ' -f2; date +%s; hostname`
	var mu sync.Mutex
	seen := map[string]string{}
	check := func(out string, began time.Time) {
		mu.Lock()
		defer mu.Unlock()
		l := strings.Fields(out)
		if len(l) < 4 {
			t.Errorf("%q", out)
			return
		}
		for i, v := range l[:len(l)-2] {
			if other, again := seen[v]; again {
				t.Errorf("value %d is the same in two runs: %q and %q", i, other, out)
			}
			seen[v] = out
		}
		var at int64
		if _, err := fmt.Sscan(l[len(l)-2], &at); err != nil || time.Unix(at, 0).Before(began.Add(-2*time.Second)) || time.Unix(at, 0).After(time.Now().Add(2*time.Second)) {
			t.Errorf("the clock is %s, started at %v", l[len(l)-2], began)
		}
	}
	for range 2 {
		began := time.Now()
		check(run(t, dir, "--", "sh", "-c", script), began)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			began := time.Now()
			r := aivm(t, dir, "", "run", "--", "sh", "-c", script)
			if r.code != 0 {
				t.Errorf("%+v", r)
			}
			check(r.out, began)
		})
	}
	wg.Wait()
	nothingLeft(t)
	noRuns(t)
}

// Much output and much input pass unchanged.
func TestMuchData(t *testing.T) {
	dir := folder(t, nil)
	const mib = 32
	r := aivm(t, dir, strings.Repeat("0123456789abcdef", mib<<16), "run", "--workspace", "none", "--", "sh", "-c", "tee /dev/stderr | sha256sum >&2; true")
	sum := sha256.Sum256([]byte(strings.Repeat("0123456789abcdef", mib<<16)))
	if r.code != 0 || !strings.Contains(r.errout, hex.EncodeToString(sum[:])) || len(r.errout) < mib<<20 {
		t.Errorf("status %d, %d bytes", r.code, len(r.errout))
	}
}

// R4: a template that does not fit or is damaged is named with the reason, and the run still works.
func TestStaleTemplate(t *testing.T) {
	dir := folder(t, nil)
	r := aivm(t, dir, "", "run", "--memory", "640", "--workspace", "none", "--timings", "--", "echo", "booted")
	if r.code != 0 || r.out != "booted\n" || !strings.Contains(r.errout, "booted instead") {
		t.Errorf("%+v", r)
	}
	states, err := filepath.Glob(filepath.Join(lab.home, ".cache", "aivm", "templates", "*", "state"))
	if err != nil || len(states) == 0 {
		t.Fatal(states, err)
	}
	before, err := os.ReadFile(states[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(states[0], int64(len(before)/2)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(states[0], before, 0o600); err != nil {
			t.Error(err)
		}
	}()
	r = aivm(t, dir, "", "run", "--workspace", "none", "--", "echo", "booted")
	if r.code != 0 || r.out != "booted\n" || !strings.Contains(r.errout, "truncated") {
		t.Errorf("%+v", r)
	}
}
