package remoteconfig

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync/hostgit"
)

var vmName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,30}$`)

// FuzzRemote checks that in any configuration aivm's sections are added at the end and removed byte
// for byte, in any order, that everything before it is unchanged, and, for some inputs, that git still reads the
// same settings.
func FuzzRemote(f *testing.F) {
	f.Add("[core]\n\tbare = false\n", "aivm", "/home/agent/p", 0)
	f.Add("[core]\r\n\tbare = false\r\n[remote \"aivm-x\"]\r\n\turl = elsewhere\r\n", "x", "/p q", 1)
	f.Add("[a]\n\tb = c \\", "x", "/p\"\\", 0)
	f.Add("[a]\n\tb = c", "x", "/p", 8)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, vm, guest string, n int) {
		if len(text) > 1<<16 || strings.ContainsAny(guest, "\x00\n\r") || !vmName.MatchString(vm) {
			return // not possible names of a VM and a folder
		}
		path := filepath.Join(dir, "config")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := hostgit.Repo{Top: dir, GitDir: dir, CommonDir: dir}
		m, err := Find(r, vm, guest)
		if err != nil || m.Present {
			return
		}
		with := m.withSection()
		if !bytes.HasPrefix(with, []byte(text)) {
			t.Fatalf("%q became %q", text, with)
		}
		if err := os.WriteFile(path, with, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Find(r, vm, guest)
		if err != nil || !again.Present || again.Name != m.Name {
			t.Fatalf("added and not found: %+v %v in %q", again, err, with)
		}
		without, ok := again.withoutSection()
		if !ok || string(without) != text {
			t.Errorf("%q became %q (%v)", text, without, ok)
		}
		// A second clone, of a work tree: whichever section is removed first, the file is restored.
		// (Of a file that ends in a carriage return and has no other line end, two line ends are read.)
		other := guest + "-2"
		if strings.HasSuffix(text, "\r") && !strings.Contains(text, "\n") {
			return
		}
		for _, order := range [][]string{{guest, other}, {other, guest}} {
			for _, g := range []string{guest, other} {
				m, err := Find(r, vm, g)
				if err != nil {
					return // another program's remotes have both names
				}
				if err := m.Add(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for _, g := range order {
				m, err := Find(r, vm, g)
				if removed, rerr := m.Remove(t.Context()); err != nil || rerr != nil || !removed {
					t.Fatalf("removing %q of %q: %v %v %v", g, order, err, rerr, removed)
				}
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != text {
				t.Errorf("%q became %q, removed in the order %q (%v)", text, b, order, err)
			}
		}
		if n&7 != 0 {
			return
		}
		list := func(b []byte) (string, bool) {
			c := exec.Command("git", "config", "--file", "-", "--list", "-z")
			c.Stdin = bytes.NewReader(b)
			c.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+dir)
			out, err := c.Output()
			return string(out), err == nil
		}
		before, ok := list([]byte(text))
		if !ok {
			return // git cannot read it either
		}
		after, ok := list(with)
		rest, found := strings.CutPrefix(after, before)
		if !ok || !found || !strings.Contains(rest, "remote."+m.Name+".url\n"+URL(vm, guest)+"\x00") {
			t.Errorf("git reads %q, and with aivm's section %q (%v)", before, after, ok)
		}
	})
}
