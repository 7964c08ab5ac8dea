package root

import (
	"fmt"
	"os"
	"os/exec"
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

// A daemon that cannot answer before its network's hook has ended is told of
// its hooks all the same, by two at once too: that hook needs the manifests.
func TestTellingADaemonKeepsNoHookWaiting(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stageHooks(t, work)
	must(t, os.MkdirAll(rootLocks, rootMode))
	// On this signal libvirtd starts to wait for what its other threads do.
	daemon := filepath.Join(work, "libvirtd")
	must(t, os.WriteFile(daemon, []byte(`#!/bin/sh
trap 'flock -w 20 `+rootLocks+`/manifest true || echo "waited in vain" >`+work+`/late; rm -f `+question("$$")+`' HUP
echo $$ >/run/libvirtd.pid
while :; do sleep 0.05; done
`), 0o755))
	// A shell sets no trap for a signal that the tests were started to ignore.
	c := exec.Command("env", "--default-signal=HUP", daemon)
	must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	for end := time.Now().Add(5 * time.Second); !catches(c.Process.Pid, syscall.SIGHUP) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	began := time.Now()
	both := make(chan error, 2)
	for range cap(both) {
		go func() {
			_, err := New(Options{Euid: 0}).Do(t.Context(), Hooks{}, nil)
			both <- err
		}()
	}
	for range cap(both) {
		if err := <-both; err != nil {
			t.Error(err)
		}
	}
	if late, err := os.ReadFile(filepath.Join(work, "late")); err == nil {
		t.Errorf("the daemon's hook %s", late)
	}
	t.Logf("told after %v", time.Since(began))
	if ok, err := HooksCurrent("/proc/self/exe"); !ok || err != nil {
		t.Errorf("current: %v %v", ok, err)
	}

	// Somebody changes a script while the daemon is told: nothing is noted.
	must(t, os.WriteFile(hookScript("qemu"), []byte(scriptText("qemu")+"# older\n"), 0o755))
	_, err := New(Options{Euid: 0}).Do(t.Context(), Hooks{}, func(line string, _ float64) {
		if strings.HasPrefix(line, "telling ") {
			_ = os.Remove(hookScript("network"))
		}
	})
	if err == nil || !strings.Contains(err.Error(), "was changed while") {
		t.Error(err)
	}
	if HooksKnown() {
		t.Error("noted as known")
	}
	do(t, Hooks{})
}
