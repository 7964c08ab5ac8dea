package secretscan

import (
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

func corpus(t *testing.T, name string) []txtar.File {
	t.Helper()
	a, err := txtar.ParseFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Files) < 40 {
		t.Fatalf("only %d files in %s", len(a.Files), name)
	}
	return a.Files
}

// TestNoSecretIsMissed: the secrets of each file are found, on their lines, and nothing else.
func TestNoSecretIsMissed(t *testing.T) {
	for _, f := range corpus(t, "secrets.txtar") {
		name, at, _ := strings.Cut(f.Name, " ")
		text := strings.ReplaceAll(string(f.Data), "¦", "")
		found, err := Scan(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, s := range found {
			if n := strconv.Itoa(s.Line); len(lines) == 0 || lines[len(lines)-1] != n {
				lines = append(lines, n)
			}
			if v := strings.TrimSpace(strings.Split(text, "\n")[s.Line-1]); len(v) > 20 && strings.Contains(s.Kind, v[len(v)-10:]) {
				t.Errorf("%s: the result contains the secret: %q", name, s.Kind)
			}
		}
		if got := strings.Join(lines, " "); got != at {
			t.Errorf("%s: found on lines %q, want %q: %v", name, got, at, found)
		}
	}
}

func TestOrdinaryFilesPass(t *testing.T) {
	for _, f := range corpus(t, "ordinary.txtar") {
		found, err := Scan(f.Name, f.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range found {
			t.Errorf("%s:%d: %s: %s", f.Name, s.Line, s.Kind, strings.Split(string(f.Data), "\n")[s.Line-1])
		}
	}
}
