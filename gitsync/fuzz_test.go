package gitsync

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
)

// FuzzGuestRefs: of what a guest says of its clone, only names git allows and
// names of objects come out, whatever it says.
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
				// Such a name is a file below refs and nothing else.
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
			t.Errorf("the guest speaks to the terminal: %q", err)
		}
	})
}

// FuzzBranchName: what passes for a branch is one for git, too; git is asked
// about one name in eight.
func FuzzBranchName(f *testing.F) {
	for _, s := range []string{"main", "a/b", "a..b", "@{", "-x", "a.lock", "ä", "HEAD", "a/.b", "x~1", "a//b", "a\x7fb", "refs/heads/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !BranchName(s) || len(s)%8 != 0 {
			return
		}
		if err := exec.Command("git", "check-ref-format", "refs/heads/"+s).Run(); err != nil {
			t.Errorf("git does not take %q: %v", s, err)
		}
	})
}

// FuzzStatus: a guest's list of files is read to its end, and each name stands
// in it.
func FuzzStatus(f *testing.F) {
	f.Add(" M a\x00?? b c\x00R  new\x00old\x00")
	f.Add("R  x")
	f.Add("\x00\x00   \x00")
	f.Fuzz(func(t *testing.T, s string) {
		es := ParseStatus(s)
		if len(es) > strings.Count(s, "\x00")+1 {
			t.Errorf("%d files of %q", len(es), s)
		}
		back := ""
		for _, e := range es {
			if e.Path == "" || !strings.Contains(s, e.Code+" "+e.Path) {
				t.Errorf("%+v of %q", e, s)
			}
			if e.Code[0] != 'R' && e.Code[0] != 'C' {
				back += e.Code + " " + e.Path + "\x00"
			}
		}
		if again := ParseStatus(back); !strings.ContainsAny(s, "RC") && len(again) != len(es) {
			t.Errorf("%+v became %+v", es, again)
		}
	})
}

// FuzzAdvertisement: what upload-pack and receive-pack say of their refs is
// read or refused, within what was sent; nothing of it is believed beyond that.
func FuzzAdvertisement(f *testing.F) {
	a := strings.Repeat("0a", 20)
	pkt := func(s string) string {
		const hex = "0123456789abcdef"
		n := len(s) + 4
		return string([]byte{hex[n>>12&15], hex[n>>8&15], hex[n>>4&15], hex[n&15]}) + s
	}
	f.Add([]byte(pkt(a+" HEAD\x00multi_ack side-band-64k ofs-delta symref=HEAD:refs/heads/main agent=git/2.39\n") + pkt(a+" refs/heads/main\n") + pkt(a+" refs/tags/v1^{}\n") + "0000"))
	f.Add([]byte(pkt(strings.Repeat("0", 40)+" capabilities^{}\x00report-status\n") + "0000"))
	f.Add([]byte(pkt("shallow "+a) + "0000"))
	f.Add([]byte("ffff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		adv := packp.NewAdvRefs()
		if err := adv.Decode(bufio.NewReader(bytes.NewReader(b))); err == nil && len(adv.References)*40 > len(b) {
			t.Errorf("%d refs of %d bytes", len(adv.References), len(b))
		}
		var answer packp.ServerResponse
		_ = answer.Decode(bufio.NewReader(bytes.NewReader(b)), false)
		st := packp.NewReportStatus()
		_ = st.Decode(bytes.NewReader(b))
		// A guest that goes on sending is cut off where the limit is.
		over := false
		c := &counted{r: io.MultiReader(bytes.NewReader(b), bytes.NewReader(b)), left: int64(len(b)), alive: func() {}, over: func() { over = true }}
		if got, err := io.ReadAll(c); len(b) > 0 && (err == nil || !over || len(got) != len(b)) {
			t.Errorf("%d bytes of at most %d: %v", len(got), len(b), err)
		}
	})
}

var vmName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,30}$`)

// FuzzRemote: in whatever configuration, our section is added at the end and
// taken out again to the byte; what stood there before stands there unchanged,
// and git, asked now and then, reads in it what it read before.
func FuzzRemote(f *testing.F) {
	f.Add("[core]\n\tbare = false\n", "aivm", "/home/agent/p", 0)
	f.Add("[core]\r\n\tbare = false\r\n[remote \"aivm-x\"]\r\n\turl = elsewhere\r\n", "x", "/p q", 1)
	f.Add("[a]\n\tb = c \\", "x", "/p\"\\", 0)
	f.Add("[a]\n\tb = c", "x", "/p", 8)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, vm, guest string, n int) {
		if len(text) > 1<<16 || strings.ContainsAny(guest, "\x00\n\r") || !vmName.MatchString(vm) {
			return // no VM, and no folder, is called so
		}
		path := filepath.Join(dir, "config")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := Repo{Top: dir, GitDir: dir, CommonDir: dir}
		m, err := FindRemote(r, vm, guest)
		if err != nil || m.Present {
			return
		}
		with := m.added()
		if !bytes.HasPrefix(with, []byte(text)) {
			t.Fatalf("%q became %q", text, with)
		}
		if err := os.WriteFile(path, with, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := FindRemote(r, vm, guest)
		if err != nil || !again.Present || again.Name != m.Name {
			t.Fatalf("added and not found: %+v %v in %q", again, err, with)
		}
		without, ok := again.removed()
		if !ok || string(without) != text {
			t.Errorf("%q became %q (%v)", text, without, ok)
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
			return // git does not read it either
		}
		after, ok := list(with)
		rest, found := strings.CutPrefix(after, before)
		if !ok || !found || !strings.Contains(rest, "remote."+m.Name+".url\n"+URL(vm, guest)+"\x00") {
			t.Errorf("git reads %q, and with our section %q (%v)", before, after, ok)
		}
	})
}
