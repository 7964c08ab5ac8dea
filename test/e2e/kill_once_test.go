//go:build long

package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAlone kills the first `code` of a new VM once at each fault point around the definition, the
// start, the seed's removal and the share. The next run must reach the same state as an undisturbed
// run. Each fault point costs a boot.
func TestAlone(t *testing.T) {
	w := rootWorld(t)
	const vm, network = "e2ekill", "e2e-alone"
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "[defaults.vm]\nname = \""+vm+"\"\nram_mb = 1536\n\n"+
		"[defaults.network]\nname = \""+network+"\"\nbridge = \"vbr-e2e-alone\"\nsubnet_cidr = \"10.94.42.0/24\"\ngateway_ip = \"10.94.42.1\"\ndhcp_start = \"10.94.42.100\"\ndhcp_end = \"10.94.42.200\"\n", 0o600)
	write(t, filepath.Join(w.home, ".ssh/config"), "Host other\n\tUser me\n", 0o644)
	project := w.project("p")
	write(t, filepath.Join(project, "hello"), "hello\n", 0o644)
	chownAll(t, project)
	t.Cleanup(func() { w.aivm("", "vm", "delete", vm, "--yes") })

	points := walk(t, w, project, nil, "code", ".", "--yes")
	w.must("", "vm", "delete", vm, "--yes")
	w.must(project, "code", ".", "--yes")
	want := state(t, w, vm, network)
	around := regexp.MustCompile(`^(domain|seed|share|disk|guest\.mount|store\.attach)\b`)
	killed := 0
	for _, at := range points {
		if !around.MatchString(at) {
			continue
		}
		killed++
		t.Run(strings.ReplaceAll(at, "/", "_"), func(t *testing.T) {
			w.t = t
			w.must("", "vm", "delete", vm, "--yes")
			if r := w.run(project, nil, []string{"AIVM_KILL_AT=" + at}, filepath.Join(bin, "aivm-faulty"), "code", ".", "--yes"); r.code != -1 {
				t.Fatalf("not killed at %s: exit %d\n%s", at, r.code, r.stderr)
			}
			w.must(project, "code", ".", "--yes")
			same(t, at, state(t, w, vm, network), want)
		})
	}
	if w.t = t; killed < 12 {
		t.Errorf("killed at only %d points of %v", killed, points)
	}
}
