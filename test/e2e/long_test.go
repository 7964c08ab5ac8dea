//go:build long

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLong walks over more files than virtiofsd may have open, and attaches as many folders with
// their own devices as fit. With an emulated CPU it takes longer than all other tests together, so
// it runs only in `make test-long`.
func TestLong(t *testing.T) {
	w := rootWorld(t)
	const vm = "e2e-long"
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "[defaults.vm]\nname = \""+vm+"\"\nram_mb = 2048\n", 0o600)
	t.Cleanup(func() { w.aivm("", "vm", "delete", vm, "--yes") })
	small, big := w.project("small"), w.project("big")
	write(t, filepath.Join(small, "f"), "small\n", 0o644)
	const files = 300000
	for i := range files {
		dir := filepath.Join(big, fmt.Sprint(i/500))
		if i%500 == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	chownAll(t, w.home+"/use")
	w.must(small, "code", ".", "--yes")
	w.must(big, "attach", ".", "--yes")
	t.Run("a walk over 300,000 files", func(t *testing.T) {
		w.t = t
		if got := w.guest(vm, "cd "+big+" && find . -type f -size -1 | wc -l"); got != fmt.Sprint(files) {
			t.Errorf("the guest found %s files", got)
		}
		if got := w.guest(vm, "echo more >>"+small+"/f && cat "+small+"/f && touch "+big+"/new && rm "+big+"/new"); got != "small\nmore" {
			t.Errorf("after the walk the guest reads %q", got)
		}
	})
	w.t = t
	w.must(big, "detach", ".")
	t.Run("as many devices as fit", func(t *testing.T) {
		w.t = t
		var dirs []string
		for i := range 25 {
			dir := w.project(fmt.Sprintf("own%d", i))
			write(t, filepath.Join(dir, "f"), fmt.Sprint(i), 0o644)
			chownAll(t, dir)
			dirs = append(dirs, dir)
		}
		for i, dir := range dirs {
			r := w.aivm(dir, "attach", ".", "--mode", "shared", "--yes")
			if i < 24 && r.code != 0 {
				t.Fatalf("folder %d: %+v", i+1, r)
			}
			if i == 24 && (r.code != 2 || !strings.Contains(r.stderr, "--mode shared-root") || !strings.Contains(r.stderr, "--mode git")) {
				t.Errorf("the 25th folder: %+v", r)
			}
		}
		all := "for d in " + filepath.Join(w.home, "use") + "/own*; do cat $d/f; echo; done | sort -n | tr '\\n' ' '"
		want := ""
		for i := range 24 {
			want += fmt.Sprint(i) + " "
		}
		// own24 is not attached.
		if got := w.guest(vm, all); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("the guest reads %q", got)
		}
		w.must("", "vm", "restart", vm, "--yes")
		if got := w.guest(vm, all); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("after a restart the guest reads %q", got)
		}
		for _, dir := range dirs[:24] {
			w.must(dir, "detach", ".")
		}
		if n := strings.Count(virsh(t, "dumpxml", vm, "--inactive"), "virtiofs'"); n != 1 {
			t.Errorf("%d virtiofs devices in the definition after all detaches, want 1", n)
		}
	})
	w.t = t
}

// TestMany starts a VM with two hundred attached folders, and attaches one of them to a second VM too.
func TestMany(t *testing.T) {
	w := rootWorld(t)
	const one, two, n = "e2e-many", "e2e-second", 200
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "[defaults.vm]\nname = \""+one+"\"\nram_mb = 1536\n", 0o600)
	t.Cleanup(func() {
		w.aivm("", "vm", "delete", two, "--yes")
		w.aivm("", "vm", "delete", one, "--yes")
	})
	first := w.project("many0")
	write(t, filepath.Join(first, "f"), "0\n", 0o644)
	chownAll(t, first)
	w.must(first, "code", ".", "--yes")
	w.must("", "vm", "down", one)
	for i := 1; i < n; i++ {
		dir := w.project(fmt.Sprintf("many%d", i))
		write(t, filepath.Join(dir, "f"), fmt.Sprintln(i), 0o644)
		w.must(dir, "attach", ".", "--yes")
	}
	r := w.must("", "vm", "up", one, "--yes")
	t.Logf("up with %d folders: %.1f s", n, r.took.Seconds())
	all := "cat " + filepath.Join(w.home, "use") + "/many*/f | sort -n | uniq | wc -l; grep -c virtiofs /proc/self/mountinfo"
	if got := w.guest(one, all); got != fmt.Sprintf("%d\n%d", n, n+1) { // +1: the mount of the device
		t.Errorf("the guest reads %q", got)
	}
	w.must("", "vm", "create", two, "--yes")
	w.must(first, "attach", ".", "--vm", two, "--yes")
	w.guest(one, "echo one >>"+first+"/f")
	w.guest(two, "echo two >>"+first+"/f")
	if got := w.guest(one, "cat "+first+"/f") + w.guest(two, "ls -d "+filepath.Join(w.home, "use")+"/*"); got != "0\none\ntwo"+first {
		t.Errorf("the two VMs read %q", got)
	}
	w.must("", "vm", "delete", two, "--yes")
	if got := w.guest(one, "cat "+first+"/f; "+all); got != fmt.Sprintf("0\none\ntwo\n%d\n%d", n+2, n+1) {
		t.Errorf("after the second VM is deleted, the first reads %q", got)
	}
	r = w.must("", "vm", "delete", one, "--yes")
	t.Logf("deleted with %d folders: %.1f s", n, r.took.Seconds())
	leftovers(t, w, one)
}
