package gitsync

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRemoteIsAddedAndRemovedByteForByte(t *testing.T) {
	for name, before := range map[string]string{
		"plain":             "[core]\n\tbare = false\n",
		"comments":          "# mine\n[core] ; odd\n  bare=false\n\n\n[remote \"origin\"]\n\turl = x\n# end\n",
		"no last line end":  "[core]\n\tbare = false",
		"windows":           "[core]\r\n\tbare = false\r\n",
		"windows, no end":   "[core]\r\n\tbare = false",
		"another VM's":      "[core]\n\tbare = false\n[remote \"aivm-vm2\"]\n\turl = vm2:/x\n",
		"empty lines at it": "[core]\n\tbare = false\n\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			file := filepath.Join(p.host, ".git/config")
			writeFile(t, file, before)
			if err := os.Chmod(file, 0o640); err != nil {
				t.Fatal(err)
			}
			r, err := Find(p.host)
			if err != nil {
				t.Fatal(err)
			}
			dir := `/home/agent/my "proj" \ # ; é`
			m, err := FindRemote(r, "vm", dir)
			if err != nil || m.Present || m.Name != "aivm-vm" {
				t.Fatalf("%+v %v", m, err)
			}
			if !strings.Contains(m.AddDiff(), "aivm-vm") {
				t.Errorf("the diff shows nothing:\n%s", m.AddDiff())
			}
			if err := m.Add(t.Context()); err != nil {
				t.Fatal(err)
			}
			after := readFile(t, file)
			if !strings.HasPrefix(after, before) {
				t.Errorf("what was there changed:\n%q\n%q", before, after)
			}
			equal(t, "git reads the url", p.gitH("config", "remote.aivm-vm.url"), "vm:"+dir)
			equal(t, "git reads the refspec", p.gitH("config", "remote.aivm-vm.fetch"), "+refs/heads/*:refs/remotes/aivm-vm/*")
			if st, _ := os.Stat(file); st.Mode().Perm() != 0o640 {
				t.Errorf("mode %v", st.Mode())
			}
			// Somebody adds more behind it, and takes it away again.
			m, err = FindRemote(r, "vm", dir)
			if err != nil || !m.Present {
				t.Fatalf("not found again: %+v %v", m, err)
			}
			writeFile(t, file, after+"[x]\n\ty = 1\n")
			m, _ = FindRemote(r, "vm", dir)
			if ok, err := m.Remove(t.Context()); !ok || err != nil {
				t.Fatal(ok, err)
			}
			equal(t, "git still reads the rest", p.gitH("config", "x.y"), "1")
			equal(t, "and", p.gitH("config", "core.bare"), "false")
			writeFile(t, file, after)
			m, _ = FindRemote(r, "vm", dir)
			if ok, err := m.Remove(t.Context()); !ok || err != nil {
				t.Fatal(ok, err)
			}
			equal(t, "the file", readFile(t, file), before)
		})
	}
}

func TestRemoteOfSomebodyElse(t *testing.T) {
	p := newPair(t)
	r, err := Find(p.host)
	if err != nil {
		t.Fatal(err)
	}
	// A second clone in the same VM has a name of its own.
	m, _ := FindRemote(r, "vm", "/a")
	if err := m.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	m2, err := FindRemote(r, "vm", "/b")
	if err != nil || m2.Name == m.Name || m2.Present {
		t.Fatalf("%+v %v", m2, err)
	}
	// The user changed ours: it stays when the folder is detached.
	p.gitH("config", "remote.aivm-vm.pushurl", "elsewhere")
	text := readFile(t, filepath.Join(p.host, ".git/config"))
	if m, err = FindRemote(r, "vm", "/a"); err != nil || !m.Present {
		t.Fatalf("%+v %v", m, err)
	}
	if ok, err := m.Remove(t.Context()); err != nil || ok || m.RemoveDiff() != "" {
		t.Fatalf("removed what the user changed: %v %v", ok, err)
	}
	equal(t, "the file", readFile(t, filepath.Join(p.host, ".git/config")), text)
	// The configuration is somebody's own link: it stays one.
	q := newPair(t)
	file := filepath.Join(q.host, ".git/config")
	elsewhere := filepath.Join(t.TempDir(), "config")
	if err := os.Rename(file, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, file); err != nil {
		t.Fatal(err)
	}
	r, _ = Find(q.host)
	m, _ = FindRemote(r, "vm", "/a")
	if err := m.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(file); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	// A git at work, or killed, holds the lock.
	writeFile(t, elsewhere+".lock", "")
	m, _ = FindRemote(r, "vm", "/b")
	if err := m.Add(t.Context()); err == nil || !strings.Contains(hints(err), ".lock") {
		t.Errorf("locked: %v", err)
	}
}
