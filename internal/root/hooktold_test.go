package root

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// restart stops libvirtd and starts it anew, without waiting for its drivers.
func restart(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile("/run/libvirtd.pid")
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	for end := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	sh(t, "libvirtd -d")
	b, err = os.ReadFile("/run/libvirtd.pid")
	must(t, err)
	again, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	t.Cleanup(func() { _ = syscall.Kill(again, syscall.SIGTERM) })
}

// A daemon that is still starting ignores the signal to look for hooks, and one
// that started while they were gone does not know them: neither is believed.
func TestHooksAreInEffect(t *testing.T) {
	work, ok := privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	stageHooks(t, work)
	libvirtd(t)
	defineNetwork(t, "hooked", "brh", "99")
	w := testWall("hooked", "brh")
	inEffect := func(when string) {
		t.Helper()
		do(t, Nft{Wall: w})
		sh(t, "nft flush ruleset")
		virshOK(t, "net-start", "hooked")
		if !tableThere(w) {
			t.Errorf("%s: the network started without its rules", when)
		}
		virshOK(t, "net-destroy", "hooked")
		left, err := filepath.Glob(filepath.Join(ManifestDir, "asks-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v %v", when, left, err)
		}
	}
	for i := range 2 {
		sh(t, "rm -rf /etc/libvirt/hooks "+hooksTold())
		restart(t)
		do(t, Hooks{})
		inEffect(fmt.Sprint("told while it starts, ", i))
	}
	// Somebody takes the scripts away; the note that they are known is left.
	sh(t, "rm -rf /etc/libvirt/hooks")
	restart(t)
	virshOK(t, "net-list") // its drivers are there
	do(t, Hooks{})
	inEffect("scripts that were gone")
}
