package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

const asMain = "FAKECODE_TEST_MAIN"

// TestMain lets the test binary act as fakecode, also when ssh starts it as its askpass program.
func TestMain(m *testing.M) {
	if os.Getenv(asMain) == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// result is the output and log of one run of the program.
type result struct {
	stdout, stderr string
	failed         bool
	log            []record
}

func (r result) last(t *testing.T) record {
	t.Helper()
	if len(r.log) == 0 {
		t.Fatalf("nothing was logged; stderr %s", r.stderr)
	}
	return r.log[len(r.log)-1]
}

func fakecode(t *testing.T, home string, env []string, args ...string) result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(self, args...)
	cmd.Env = append([]string{asMain + "=1", "HOME=" + home, "PATH=" + os.Getenv("PATH"), "FAKECODE_LOG=" + log, "FAKECODE_TIMEOUT=20s"}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed := cmd.Run() != nil
	r := result{stdout: stdout.String(), stderr: stderr.String(), failed: failed}
	b, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		r.log = append(r.log, rec)
	}
	return r
}

func mkdir(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpens(t *testing.T) {
	g := newGuest(t)
	for _, name := range []string{"project", "my.project/", "with 'quotes' and $(spaces)", "-dash"} {
		folder := mkdir(t, filepath.Join(g.home, name))
		if strings.HasSuffix(name, "/") {
			folder += "/"
		}
		r := g.open([]string{"FAKECODE_WRITE=it's here", "FAKECODE_TEXT=$HOME\n'x'"}, folder)
		sum := r.last(t)
		if r.failed || sum.Event != "summary" || !sum.Forward || !sum.Folder || sum.Asked || sum.Error != "" || sum.Alias != "box" || sum.Path != folder {
			t.Fatalf("%s: %+v\n%s", name, sum, r.stderr)
		}
		if open := r.log[0]; open.Event != "open" || len(open.Argv) != 4 || open.Argv[3] != folder || open.CWD == "" {
			t.Errorf("%s: %+v", name, open)
		}
		got, err := os.ReadFile(filepath.Join(folder, "it's here"))
		if err != nil || string(got) != "$HOME\n'x'\n" {
			t.Errorf("%s: wrote %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(g.home, ".vscode-server/data/Machine")); err != nil {
		t.Error(err)
	}
}

// TestGuestPrograms checks that either perl or python3 is sufficient in the guest, and the error if
// the guest has neither.
func TestGuestPrograms(t *testing.T) {
	for program, sentence := range map[string]string{"perl": "", "python3": "", "": "false ended with 1"} {
		t.Run(program, func(t *testing.T) {
			g := newGuest(t)
			g.bin = t.TempDir()
			for _, name := range []string{"bash", "mkdir", "cat", "false", program} {
				if path := "/usr/bin/" + name; name != "" {
					if err := os.Symlink(path, filepath.Join(g.bin, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			r := g.open(nil, g.home)
			if sum := r.last(t); r.failed != (sentence != "") || sum.Forward == r.failed || !strings.Contains(sum.Error, sentence) {
				t.Errorf("%+v\n%s", sum, r.stderr)
			}
		})
	}
}

func TestFails(t *testing.T) {
	for _, c := range []struct {
		name     string
		prepare  func(t *testing.T, g *fakeGuest)
		path     string
		sentence string
		asked    bool
	}{
		{name: "missing folder", path: "/nowhere", sentence: "missing"},
		{name: "a file", path: "/file", sentence: "a file"},
		{name: "a dot and no slash", path: "/my.project", sentence: "treated as a file"},
		{name: "relative", path: "-", sentence: "not an absolute path"},
		{name: "no forwarding", path: "/project", sentence: "forwarding", prepare: func(_ *testing.T, g *fakeGuest) { g.noTCP = true }},
		{name: "nobody listens", path: "/project", sentence: "Connection refused", prepare: func(_ *testing.T, g *fakeGuest) { g.listener.Close() }},
		{name: "unknown host key", path: "/project", sentence: "ssh prompted", asked: true, prepare: func(_ *testing.T, g *fakeGuest) { g.write("known_hosts", "") }},
		{name: "another host key", path: "/project", sentence: "REMOTE HOST IDENTIFICATION HAS CHANGED", prepare: func(t *testing.T, g *fakeGuest) {
			other, _ := newKey(t)
			g.write("known_hosts", "box "+string(ssh.MarshalAuthorizedKey(other.PublicKey())))
		}},
		{name: "a password", path: "/project", sentence: "ssh prompted", asked: true, prepare: func(_ *testing.T, g *fakeGuest) {
			g.config.PublicKeyCallback = nil
			g.config.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, os.ErrPermission }
		}},
		{name: "no such alias", path: "/project", sentence: "no host name", prepare: func(_ *testing.T, g *fakeGuest) { g.write("config", "") }},
		{name: "no configuration", path: "/project", sentence: "no SSH configuration", prepare: func(_ *testing.T, g *fakeGuest) { os.Remove(g.path("config")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			mkdir(t, g.home+"/project")
			mkdir(t, g.home+"/my.project")
			if err := os.WriteFile(g.home+"/file", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.prepare != nil {
				c.prepare(t, g)
			}
			path := g.home + c.path
			if c.path == "-" {
				path = "project"
			}
			r := g.open([]string{"FAKECODE_WRITE=x"}, path)
			sum := r.last(t)
			if !r.failed || sum.Folder || sum.Asked != c.asked || !strings.Contains(r.stderr, c.sentence) || !strings.Contains(sum.Error, c.sentence) {
				t.Errorf("failed %v, %+v\nstderr %s", r.failed, sum, r.stderr)
			}
			if _, err := os.Stat(g.home + "/project/x"); err == nil {
				t.Error("a file was written in spite of the failure")
			}
		})
	}
}

func TestQuick(t *testing.T) {
	r := fakecode(t, t.TempDir(), []string{"FAKECODE_QUICK=1"}, "--remote", "ssh-remote+box", "/p")
	if r.failed || len(r.log) != 1 || !slices.Equal(r.log[0].Argv[1:], []string{"--remote", "ssh-remote+box", "/p"}) {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"/p"}, {"--remote", "ssh-remote+Box", "/p"}, {"--remote", "box", "/p"}, {"--remote", "ssh-remote+box"}} {
		if r := fakecode(t, t.TempDir(), []string{"FAKECODE_QUICK=1"}, args...); !r.failed {
			t.Errorf("%q was accepted", args)
		}
	}
}

func TestExtensions(t *testing.T) {
	for env, want := range map[string]string{"X=": remoteSSH + "\n", "FAKECODE_EXTENSIONS=": "", "FAKECODE_EXTENSIONS=a.b,c.d": "a.b\nc.d\n"} {
		if r := fakecode(t, t.TempDir(), []string{env}, "--list-extensions"); r.failed || r.stdout != want || r.last(t).Event != "list-extensions" {
			t.Errorf("%s: %+v", env, r)
		}
	}
	if r := fakecode(t, t.TempDir(), nil, "--version"); r.failed || strings.Count(r.stdout, "\n") != 3 {
		t.Errorf("version: %+v", r)
	}
}
