package hookinstall_test

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

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/hookinstall"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// restart restarts libvirtd without waiting for its drivers.
func restart(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile("/run/libvirtd.pid")
	roottest.Must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	roottest.Must(t, err)
	roottest.Must(t, syscall.Kill(pid, syscall.SIGTERM))
	for end := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	roottest.Sh(t, "libvirtd -d")
	b, err = os.ReadFile("/run/libvirtd.pid")
	roottest.Must(t, err)
	again, err := strconv.Atoi(strings.TrimSpace(string(b)))
	roottest.Must(t, err)
	t.Cleanup(func() { _ = syscall.Kill(again, syscall.SIGTERM) })
}

// Install waits until a daemon really runs its hooks: a daemon that is still starting
// ignores the signal, and one that started while the scripts were missing has not loaded
// them.
func TestHooksAreInEffect(t *testing.T) {
	work, ok := roottest.Privately(t, syscall.CLONE_NEWNET)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Libvirtd(t)
	roottest.DefineNetwork(t, "hooked", "brh", "99")
	w := roottest.Wall("hooked", "brh")
	inEffect := func(when string) {
		t.Helper()
		roottest.Do(t, record.Nft{Wall: w})
		roottest.Sh(t, "nft flush ruleset")
		roottest.VirshOK(t, "net-start", "hooked")
		if !roottest.RulesLoaded(w) {
			t.Errorf("%s: the network started without its rules", when)
		}
		roottest.VirshOK(t, "net-destroy", "hooked")
		remaining, err := filepath.Glob(filepath.Join(rootfile.ManifestDir, "asks-*"))
		if err != nil || len(remaining) > 0 {
			t.Errorf("%s: not removed: %v %v", when, remaining, err)
		}
	}
	for i := range 2 {
		roottest.Sh(t, "rm -rf /etc/libvirt/hooks "+hookinstall.LoadedPath())
		restart(t)
		roottest.Do(t, record.Hooks{})
		inEffect(fmt.Sprint("signalled while it starts, ", i))
	}
	// The scripts are removed, and the record that they are loaded remains.
	roottest.Sh(t, "rm -rf /etc/libvirt/hooks")
	restart(t)
	roottest.VirshOK(t, "net-list") // waits for its drivers
	roottest.Do(t, record.Hooks{})
	inEffect("scripts that were missing")
}

// Install does not block a hook that the daemon has to finish before it can answer, also
// if two runs install at once: that hook needs the lock of manifests.
func TestReloadingADaemonBlocksNoHook(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Must(t, os.MkdirAll(rootfile.LockDir, rootfile.OwnMode))
	// On this signal libvirtd waits for its other threads, as this script does.
	daemon := filepath.Join(work, "libvirtd")
	roottest.Must(t, os.WriteFile(daemon, []byte(`#!/bin/sh
trap 'flock -w 20 `+rootfile.LockDir+`/manifest true || echo "could not lock" >`+work+`/late; rm -f `+hookinstall.ReloadFile("$$")+`' HUP
echo $$ >/run/libvirtd.pid
while :; do sleep 0.05; done
`), 0o755))
	// A shell cannot trap a signal that was ignored when it started.
	c := exec.Command("env", "--default-signal=HUP", daemon)
	roottest.Must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	for end := time.Now().Add(5 * time.Second); !hookinstall.Catches(c.Process.Pid, syscall.SIGHUP) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	began := time.Now()
	both := make(chan error, 2)
	for range cap(both) {
		go func() {
			_, err := root.New(root.Options{Euid: 0}).Do(t.Context(), record.Hooks{}, nil)
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
	t.Logf("loaded after %v", time.Since(began))
	if ok, err := hookinstall.Current("/proc/self/exe"); !ok || err != nil {
		t.Errorf("current: %v %v", ok, err)
	}

	// A script changes while the daemon loads it: Install records nothing.
	roottest.Must(t, os.WriteFile(rootfile.HookScript("qemu"), []byte(hookinstall.ScriptText("qemu")+"# older\n"), 0o755))
	_, err := root.New(root.Options{Euid: 0}).Do(t.Context(), record.Hooks{}, func(line string, _ float64) {
		if strings.HasPrefix(line, "making ") {
			_ = os.Remove(rootfile.HookScript("network"))
		}
	})
	if err == nil || !strings.Contains(err.Error(), "was changed while") {
		t.Error(err)
	}
	if hookinstall.Known() {
		t.Error("recorded as loaded")
	}
	roottest.Do(t, record.Hooks{})
}
