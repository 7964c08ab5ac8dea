package gittest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/ui"
)

func Real(t testing.TB, p string) string {
	t.Helper()
	p, err := filepath.EvalSymlinks(p)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func Mkdir(t testing.TB, p string) {
	t.Helper()
	if err := os.MkdirAll(p, 0o755); err != nil {
		t.Fatal(err)
	}
}

func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	Mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func ReadFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func Git(t testing.TB, dir, home string, args ...string) string {
	t.Helper()
	out, err := Try(dir, home, args...)
	if err != nil {
		t.Fatalf("git %v in %s: %v\n%s", args, dir, err, out)
	}
	return strings.TrimRight(out, "\n")
}

func Try(dir, home string, args ...string) (string, error) {
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C"}
	b, err := c.CombinedOutput()
	return string(b), err
}

// RunHint runs the command of err's hints that contains the given text, as the user would.
func RunHint(t *testing.T, err error, command string) {
	t.Helper()
	var e *ui.Error
	if !errors.As(err, &e) {
		t.Errorf("no hint: %v", err)
		return
	}
	for _, hint := range e.HintLines() {
		if at := strings.Index(hint, command); at >= 0 {
			if out, err := exec.Command("sh", "-c", hint[at:]).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", hint[at:], err, out)
			}
			return
		}
	}
	t.Errorf("no hint runs %s: %q", command, e.Hints)
}

func Equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func Hints(err error) string {
	var e *ui.Error
	if errors.As(err, &e) {
		return strings.Join(e.HintLines(), "\n")
	}
	return ""
}

func Glob(t *testing.T, pat string) []string {
	t.Helper()
	l, err := filepath.Glob(strings.ReplaceAll(pat, "[", "?"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}
