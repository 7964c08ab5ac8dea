package settingsync

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

// TestNoSecretIsMissed: each file's first secret is found on its line.
func TestNoSecretIsMissed(t *testing.T) {
	for _, f := range corpus(t, "secrets.txtar") {
		name, at, _ := strings.Cut(f.Name, " ")
		line, err := strconv.Atoi(at)
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		text := strings.ReplaceAll(string(f.Data), "¦", "")
		got := Scan(text)
		if len(got) == 0 || got[0].Line != line || got[0].Kind == "" {
			t.Errorf("%s: %v, want line %d", name, got, line)
		}
		for _, s := range got {
			if v := strings.TrimSpace(strings.Split(text, "\n")[s.Line-1]); len(v) > 20 && strings.Contains(s.Kind, v[len(v)-10:]) {
				t.Errorf("%s: the result contains the secret: %q", name, s.Kind)
			}
		}
	}
}

func TestOrdinaryFilesPass(t *testing.T) {
	alarms := 0
	for _, f := range corpus(t, "ordinary.txtar") {
		for _, s := range Scan(string(f.Data)) {
			alarms++
			t.Logf("%s:%d: %s: %s", f.Name, s.Line, s.Kind, strings.Split(string(f.Data), "\n")[s.Line-1])
		}
	}
	if alarms > 1 {
		t.Errorf("%d false alarms, at most 1", alarms)
	}
}

func BenchmarkScan(b *testing.B) {
	text := strings.Repeat("alias ll='ls -alF'\nexport PATH=\"$HOME/bin:$PATH\"\n[ -f ~/.fzf.bash ] && . ~/.fzf.bash\n", 50)
	for b.Loop() {
		Scan(text)
	}
}
