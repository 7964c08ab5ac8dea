package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// walk runs a command until it ends with 0, killed with SIGKILL at each of its
// fault points in turn: each run goes on where the last one died, and dies at
// the first point nobody died at yet. It returns the points.
func walk(t *testing.T, w *world, dir string, env []string, args ...string) []string {
	t.Helper()
	return walkUntil(t, w, dir, env, "", args...)
}

// walkUntil walks a command that refuses to do again what is done, and then says
// so with these words.
func walkUntil(t *testing.T, w *world, dir string, env []string, done string, args ...string) []string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "points")
	env = append([]string{"AIVM_WALK=" + log}, env...)
	for range 150 {
		r := w.run(dir, nil, env, append([]string{filepath.Join(bin, "aivm-faulty")}, args...)...)
		if r.code == -1 {
			continue
		}
		b, _ := os.ReadFile(log)
		points := strings.Fields(string(b))
		if r.code != 0 && (done == "" || !strings.Contains(r.stderr, done)) {
			t.Fatalf("%v, killed at %v: exit %d\n%s", args, points, r.code, r.stderr)
		}
		return points
	}
	t.Fatalf("%v meets new points for ever", args)
	return nil
}
