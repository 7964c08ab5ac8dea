package remoteconfig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/remoteconfig"
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
			p := clonetest.New(t)
			file := filepath.Join(p.Host, ".git/config")
			gittest.WriteFile(t, file, before)
			if err := os.Chmod(file, 0o640); err != nil {
				t.Fatal(err)
			}
			r, err := hostgit.Find(p.Host)
			if err != nil {
				t.Fatal(err)
			}
			dir := `/home/agent/my "proj" \ # ; é`
			m, err := remoteconfig.Find(r, "vm", dir)
			if err != nil || m.Present || m.Name != "aivm-vm" {
				t.Fatalf("%+v %v", m, err)
			}
			if !strings.Contains(m.AddDiff(), "aivm-vm") {
				t.Errorf("the diff shows nothing:\n%s", m.AddDiff())
			}
			if err := m.Add(t.Context()); err != nil {
				t.Fatal(err)
			}
			after := gittest.ReadFile(t, file)
			if !strings.HasPrefix(after, before) {
				t.Errorf("what was there changed:\n%q\n%q", before, after)
			}
			gittest.Equal(t, "git reads the url", p.GitH("config", "remote.aivm-vm.url"), "vm:"+dir)
			gittest.Equal(t, "git reads the refspec", p.GitH("config", "remote.aivm-vm.fetch"), "+refs/heads/*:refs/remotes/aivm-vm/*")
			if st, _ := os.Stat(file); st.Mode().Perm() != 0o640 {
				t.Errorf("mode %v", st.Mode())
			}
			// Another program appends a section and removes it again.
			m, err = remoteconfig.Find(r, "vm", dir)
			if err != nil || !m.Present {
				t.Fatalf("not found again: %+v %v", m, err)
			}
			gittest.WriteFile(t, file, after+"[x]\n\ty = 1\n")
			m, _ = remoteconfig.Find(r, "vm", dir)
			if ok, err := m.Remove(t.Context()); !ok || err != nil {
				t.Fatal(ok, err)
			}
			gittest.Equal(t, "git still reads the rest", p.GitH("config", "x.y"), "1")
			gittest.Equal(t, "and", p.GitH("config", "core.bare"), "false")
			gittest.WriteFile(t, file, after)
			m, _ = remoteconfig.Find(r, "vm", dir)
			if ok, err := m.Remove(t.Context()); !ok || err != nil {
				t.Fatal(ok, err)
			}
			gittest.Equal(t, "the file", gittest.ReadFile(t, file), before)
		})
	}
}

func TestRemoteOfSomebodyElse(t *testing.T) {
	p := clonetest.New(t)
	r, err := hostgit.Find(p.Host)
	if err != nil {
		t.Fatal(err)
	}
	// A second clone in the same VM gets another remote name.
	m, _ := remoteconfig.Find(r, "vm", "/a")
	if err := m.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	m2, err := remoteconfig.Find(r, "vm", "/b")
	if err != nil || m2.Name == m.Name || m2.Present {
		t.Fatalf("%+v %v", m2, err)
	}
	// The user changed aivm's section, so it stays when the folder is detached.
	p.GitH("config", "remote.aivm-vm.pushurl", "elsewhere")
	text := gittest.ReadFile(t, filepath.Join(p.Host, ".git/config"))
	if m, err = remoteconfig.Find(r, "vm", "/a"); err != nil || !m.Present {
		t.Fatalf("%+v %v", m, err)
	}
	if ok, err := m.Remove(t.Context()); err != nil || ok || m.RemoveDiff() != "" {
		t.Fatalf("removed what the user changed: %v %v", ok, err)
	}
	gittest.Equal(t, "the file", gittest.ReadFile(t, filepath.Join(p.Host, ".git/config")), text)
	// The user's configuration file is a symbolic link, and stays one.
	q := clonetest.New(t)
	file := filepath.Join(q.Host, ".git/config")
	target := filepath.Join(t.TempDir(), "config")
	if err := os.Rename(file, target); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
	r, _ = hostgit.Find(q.Host)
	m, _ = remoteconfig.Find(r, "vm", "/a")
	if err := m.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(file); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	// A running or killed git process holds the lock.
	gittest.WriteFile(t, target+".lock", "")
	m, _ = remoteconfig.Find(r, "vm", "/b")
	if err := m.Add(t.Context()); err == nil || !strings.Contains(gittest.Hints(err), ".lock") {
		t.Errorf("locked: %v", err)
	}
}

// TestRemoteOfAChangedFile: between Find and the change, another program or another action of the
// same plan wrote the file.
func TestRemoteOfAChangedFile(t *testing.T) {
	p := clonetest.New(t)
	file := filepath.Join(p.Host, ".git/config")
	before := gittest.ReadFile(t, file)
	r, err := hostgit.Find(p.Host)
	if err != nil {
		t.Fatal(err)
	}
	find := func(dir string) remoteconfig.Remote {
		t.Helper()
		m, err := remoteconfig.Find(r, "vm", dir)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	a := find("/a")
	gittest.WriteFile(t, file, before+"[x]\n\ty = 1\n")
	if err := a.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Add(t.Context()); err != nil || strings.Count(gittest.ReadFile(t, file), "vm:/a") != 1 {
		t.Errorf("added twice: %v\n%s", err, gittest.ReadFile(t, file))
	}
	b := find("/b")
	if err := b.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, b = find("/a"), find("/b")
	for _, m := range []remoteconfig.Remote{a, b} {
		if ok, err := m.Remove(t.Context()); !ok || err != nil {
			t.Fatalf("%s: %v %v", m.Name, ok, err)
		}
	}
	if ok, err := a.Remove(t.Context()); ok || err != nil {
		t.Errorf("removed twice: %v %v", ok, err)
	}
	gittest.Equal(t, "the file", gittest.ReadFile(t, file), before+"[x]\n\ty = 1\n")
	// Another program takes the name.
	c := find("/c")
	p.GitH("remote", "add", c.Name, "elsewhere:/c")
	text := gittest.ReadFile(t, file)
	if err := c.Add(t.Context()); err == nil || !strings.Contains(err.Error(), "from another program") {
		t.Errorf("the name was taken: %v", err)
	}
	gittest.Equal(t, "the file", gittest.ReadFile(t, file), text)
	// The user changes the section after Find.
	d := find("/d")
	if err := d.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	d = find("/d")
	p.GitH("config", "remote."+d.Name+".pushurl", "elsewhere")
	if ok, err := d.Remove(t.Context()); ok || err != nil {
		t.Errorf("removed what the user changed: %v %v", ok, err)
	}
	// A section that the user changed is found also if the first name is free.
	p.GitH("remote", "remove", "aivm-vm")
	p.GitH("config", "remote."+d.Name+".tagOpt", "--tags")
	if m := find("/d"); m.Name != d.Name || !m.Present {
		t.Errorf("%s %v, want %s", m.Name, m.Present, d.Name)
	}
}
