package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// walk runs a command again and again until it exits 0. Each run continues where the previous one
// was killed and is killed with SIGKILL at its first fault point at which no run was killed yet.
// It returns the fault points. In `make test` these are the points after actions: nothing is written
// between one action and the next, so a kill before an action leaves what a kill after the previous
// one left. `make test-long` kills at both.
func walk(t *testing.T, w *world, dir string, env []string, args ...string) []string {
	t.Helper()
	return walkUntil(t, w, dir, env, "", args...)
}

// walkUntil is walk for a command that refuses to repeat what is done already: a run that fails
// with the text done in stderr counts as success.
func walkUntil(t *testing.T, w *world, dir string, env []string, done string, args ...string) []string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "points")
	env = append([]string{"AIVM_WALK=" + log}, env...)
	if killsOfAction == 1 {
		env = append(env, "AIVM_WALK_AFTER=1")
	}
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
	t.Fatalf("%v: no end after 150 runs, each killed at another fault point", args)
	return nil
}
