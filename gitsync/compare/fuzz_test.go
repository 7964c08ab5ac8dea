package compare

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzGuestRefs checks that ParseGuest returns only ref names git allows and valid object names,
// whatever the guest sends.
func FuzzGuestRefs(f *testing.F) {
	a := strings.Repeat("0a", 20)
	f.Add([]byte("repo\nref: refs/heads/main\nmain\n" + a + " refs/heads/main\n" + a + " refs/tags/v1\n" + a + " refs/aivm/wip/x\n"))
	f.Add([]byte("repo\n\n\n" + a + " refs/heads/../../x\n" + a + " refs/heads/-x\n" + strings.Repeat("0", 40) + " refs/heads/null\n"))
	f.Add([]byte("broken\nfatal: \x1b[2J"))
	f.Add([]byte("absent"))
	f.Fuzz(func(t *testing.T, out []byte) {
		g, err := ParseGuest(out)
		if err != nil {
			return
		}
		for _, m := range []struct {
			refs   map[string]string
			prefix string
		}{{g.Heads, ""}, {g.Tags, "refs/tags/"}, {g.Wip, "refs/aivm/"}} {
			for ref, oid := range m.refs {
				name, ok := strings.CutPrefix(ref, m.prefix)
				if !ok || !BranchName(name) || !OID(oid) {
					t.Errorf("%q at %q", ref, oid)
				}
				// Such a name is exactly one path below refs.
				if p := filepath.Join("refs", "x", name); p != "refs/x/"+name || strings.ContainsAny(name, "\x00\n\r\x1b\\ ") {
					t.Errorf("%q is the file %q", name, p)
				}
			}
		}
		for _, n := range []string{g.Head, g.Marked} {
			if n != "" && !BranchName(n) {
				t.Errorf("branch %q", n)
			}
		}
		if g.State != Clone && len(g.Heads) > 0 {
			t.Errorf("branches of %s", g.State)
		}
		if err := g.Usable("vm", "/home/agent/x"); err != nil && strings.ContainsAny(err.Error(), "\x1b\x07\x00") {
			t.Errorf("control characters of the guest in an error: %q", err)
		}
	})
}

// FuzzBranchName checks that git accepts every name BranchName accepts; to save time, git checks
// one name in eight.
func FuzzBranchName(f *testing.F) {
	for _, s := range []string{"main", "a/b", "a..b", "@{", "-x", "a.lock", "ä", "HEAD", "a/.b", "x~1", "a//b", "a\x7fb", "refs/heads/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !BranchName(s) || len(s)%8 != 0 {
			return
		}
		if err := exec.Command("git", "check-ref-format", "refs/heads/"+s).Run(); err != nil {
			t.Errorf("git refuses %q: %v", s, err)
		}
	})
}
