package clonetest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/remoteconfig"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/internal/guest"
)

// Pair is a host repository and the path of its clone in a guest.
type Pair struct {
	T      testing.TB
	Server *Server
	Host   string
	Guest  string
	Remote remoteconfig.Remote
	Peer   transfer.Peer
	Notes  []string
}

func New(t testing.TB, initArgs ...string) *Pair {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	// Test results must not depend on the user's git configuration.
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	gittest.WriteFile(t, filepath.Join(os.Getenv("HOME"), ".gitconfig"), "[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n[commit]\n\tgpgSign = false\n")
	p := &Pair{T: t, Server: newServer(t)}
	gittest.WriteFile(t, filepath.Join(p.Server.Home, ".gitconfig"), "[user]\n\tname = A\n\temail = a@example.org\n[init]\n\tdefaultBranch = other\n")
	p.Host = filepath.Join(gittest.Real(t, t.TempDir()), "my proj é 'q'")
	p.Guest = filepath.Join(p.Server.Home, "w", "my proj é 'q'")
	gittest.Mkdir(t, p.Host)
	p.GitH(append([]string{"init", "-q"}, initArgs...)...)
	p.Connect()
	return p
}

func (p *Pair) Connect() {
	p.Peer = transfer.Peer{Conn: p.Server.dial(p.T), VM: "vm", Dir: p.Guest, Note: func(s string) { p.Notes = append(p.Notes, s) }}
}

func (p *Pair) GitH(args ...string) string {
	return gittest.Git(p.T, p.Host, os.Getenv("HOME"), args...)
}

func (p *Pair) GitG(args ...string) string { return gittest.Git(p.T, p.Guest, p.Server.Home, args...) }

func (p *Pair) CommitH(name, text string) string {
	gittest.WriteFile(p.T, filepath.Join(p.Host, name), text)
	p.GitH("add", "-A")
	p.GitH("commit", "-q", "-m", "host "+name)
	return p.GitH("rev-parse", "HEAD")
}

func (p *Pair) CommitG(name, text string) string {
	gittest.WriteFile(p.T, filepath.Join(p.Guest, name), text)
	p.GitG("add", "-A")
	p.GitG("commit", "-q", "-m", "guest "+name)
	return p.GitG("rev-parse", "HEAD")
}

func (p *Pair) Observe() (*compare.Host, *compare.Guest) {
	p.T.Helper()
	r, err := hostgit.Find(p.Host)
	if err != nil {
		p.T.Fatal(err)
	}
	if p.Remote, err = remoteconfig.Find(r, "vm", p.Guest); err != nil {
		p.T.Fatal(err)
	}
	h, err := compare.Observe(context.Background(), r, p.Remote.Name)
	if err != nil {
		p.T.Fatal(err)
	}
	out, err := p.Peer.Conn.Probe(context.Background(), []guest.Probe{{Name: "git", Script: compare.GuestProbe(p.Guest)}})
	if err != nil {
		p.T.Fatal(err)
	}
	g, err := compare.ParseGuest(out["git"])
	if err != nil {
		p.T.Fatal(err)
	}
	return &h, &g
}

// Sync does what the commands do: create the clone, fetch, push, switch. It returns why the push
// was refused.
func (p *Pair) Sync() (problem error) {
	p.T.Helper()
	problem, err := p.TrySync()
	if err != nil {
		p.T.Fatal(err)
	}
	return problem
}

func (p *Pair) TrySync() (problem, err error) {
	p.T.Helper()
	h, g := p.Observe()
	ctx := context.Background()
	if g.State == compare.Absent {
		if err := gitsync.Init(ctx, p.Peer, *h, g); err != nil {
			return nil, err
		}
	}
	if _, notes, err := transfer.Fetch(ctx, p.Peer, h, *g); err != nil {
		return nil, err
	} else {
		p.Notes = append(p.Notes, notes...)
	}
	if _, problem, err = gitsync.PushBranch(ctx, p.Peer, h, g); err != nil || problem != nil {
		return problem, err
	}
	if compare.ShouldSwitch(*h, *g) {
		if done, err := gitsync.Switch(ctx, p.Peer, *h, g); err != nil {
			return nil, err
		} else if !done {
			p.Notes = append(p.Notes, gitsync.StaysOnBranch(p.Peer, *h, *g))
		}
	}
	return nil, nil
}

func (p *Pair) Fsck() {
	p.T.Helper()
	for _, d := range []struct{ dir, home string }{{p.Host, os.Getenv("HOME")}, {p.Guest, p.Server.Home}} {
		if _, err := os.Stat(filepath.Join(d.dir, ".git/HEAD")); err != nil {
			continue
		}
		if out, err := gittest.Try(d.dir, d.home, "fsck", "--full", "--strict"); err != nil || strings.Contains(out, "missing") || strings.Contains(out, "broken") || strings.Contains(out, "error") {
			p.T.Errorf("fsck of %s: %v\n%s", d.dir, err, out)
		}
	}
}

// FeedG runs the guest's git with an input.
func (p *Pair) FeedG(in string, args ...string) string {
	p.T.Helper()
	c := exec.Command("git", args...)
	c.Dir, c.Stdin = p.Guest, strings.NewReader(in)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.Server.Home}
	b, err := c.CombinedOutput()
	if err != nil {
		p.T.Fatalf("git %v: %v\n%s", args, err, b)
	}
	return strings.TrimSpace(string(b))
}
