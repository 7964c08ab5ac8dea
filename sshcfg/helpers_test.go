package sshcfg

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"aivm.dev/aivm/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func noenv(string) string { return "" }

// newLayout returns a Layout in a new directory. Its SystemConfig does not exist, so that
// the machine's own does not affect the tests.
func newLayout(t testing.TB) Layout {
	t.Helper()
	l := DefaultLayout(t.TempDir(), noenv)
	l.SystemConfig = filepath.Join(l.Home, "etc-ssh-config")
	return l
}

func stanzaFor(l Layout, alias string) Stanza {
	return Stanza{
		Alias: alias, HostName: "10.77.0.50", User: "agent", Port: 22,
		Identities: []string{l.OwnKeyPath()}, KnownHosts: l.KnownHostsPath(alias),
		HostKeyAlias: "aivm-" + alias,
	}
}

// apply observes, plans and executes the plan, as provision does.
func apply(t testing.TB, l Layout, want Stanza) []plan.Action {
	t.Helper()
	as, err := Plan(Observe(l, want), want)
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	do(t, as)
	return as
}

func do(t testing.TB, as []plan.Action) {
	t.Helper()
	for _, a := range as {
		if err := a.Do(context.Background()); err != nil {
			t.Fatalf("%s: %v", a.ID, err)
		}
	}
}

func ids(as []plan.Action) []string {
	var out []string
	for _, a := range as {
		out = append(out, a.ID)
	}
	return out
}

func write(t testing.TB, path, data string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func mode(t testing.TB, path string) os.FileMode {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode().Perm()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// sshG returns the output of "ssh -G" for a host with the real ssh.
func sshG(t testing.TB, file, host string) string {
	t.Helper()
	c := exec.Command("ssh", "-G", "-F", file, "--", host)
	var errw bytes.Buffer
	c.Stderr = &errw
	out, err := c.Output()
	if err != nil {
		t.Fatalf("ssh -G -F %s %s: %v\n%s", file, host, err, errw.String())
	}
	return string(out)
}
