package sshcfg

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// TestGuardedIncludes checks that Guarded refuses every form of Include with which ssh reads
// a file in a guest folder. It first checks with the real ssh that it reads the file.
func TestGuardedIncludes(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	l := newLayout(t)
	guests := filepath.Join(l.Home, "guests")
	l.Guests = []GuestFolder{{Path: guests, VM: "v"}}
	other := filepath.Join(l.Home, "other")
	for _, d := range []string{guests, filepath.Join(l.Home, ".ssh"), filepath.Join(other, ".ssh"), filepath.Join(l.Home, "d")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(guests, "c"), []byte("User followed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"d/x", "d/b[c", "d/]", "other/.ssh/rel", "d/lit%d"} {
		if err := os.Symlink(filepath.Join(guests, "c"), filepath.Join(l.Home, link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", other)
	up, err := filepath.Rel(me.HomeDir, l.Home)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		line  string
		since string // first OpenSSH release with it, "" for all that aivm supports
	}{
		{"Include HOME/d/x", ""},
		{"Include HOME/d/[!_]", ""},
		{"Include HOME/d/[[:alpha:]]", ""},
		{"Include HOME/d/[]x]", ""},
		{"Include HOME/d/[x-]", ""},
		{"Include HOME/d/b[c", ""},
		{"Include HOME/d/lit%d", ""},
		{"Include ~" + me.Username + "/" + up + "/d/x", ""},
		{"Include ~/.ssh/rel", ""},
		{"Include rel", ""},
		{"\"Include\" HOME/d/x", ""},
		{"In\"clude\" HOME/d/x", ""},
		{"=Include HOME/d/x", ""},
		{"Include = HOME/d/x", ""},
		{"Include ${HOME}/../d/x", "9.9"},
		{"Include %d/d/x", "9.9"},
		{"Include HOME/d/%n", "9.9"},
	} {
		conf := filepath.Join(l.Home, ".ssh", "config")
		line := strings.ReplaceAll(tc.line, "HOME/", l.Home+"/")
		if strings.Contains(tc.line, "${HOME}") {
			line = tc.line
		}
		if err := os.WriteFile(conf, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if tc.since == "" {
			out, err := exec.Command("ssh", "-F", conf, "-G", "x").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "user followed\n") {
				t.Errorf("ssh does not follow %q: %v", line, err)
			}
		}
		if err := l.Guarded(); !errors.Is(err, ErrGuest) {
			t.Errorf("%q: %v", line, err)
		}
	}
	for _, line := range []string{"Include HOME/d/[!x]z", "Include HOME/e/[!_]*", "#\"Include\" HOME/d/x", "\"Include HOME/d/x", "Included HOME/d/x"} {
		if err := os.WriteFile(filepath.Join(l.Home, ".ssh", "config"), []byte(strings.ReplaceAll(line, "HOME", l.Home)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Guarded(); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}
