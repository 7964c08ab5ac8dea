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

// restart stops libvirtd and starts it anew, without waiting for its drivers.
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

// A daemon that is still starting ignores the signal to look for hooks, and one
// that started while they were gone does not know them: neither is believed.
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
		if !roottest.TableThere(w) {
			t.Errorf("%s: the network started without its rules", when)
		}
		roottest.VirshOK(t, "net-destroy", "hooked")
		left, err := filepath.Glob(filepath.Join(rootfile.ManifestDir, "asks-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v %v", when, left, err)
		}
	}
	for i := range 2 {
		roottest.Sh(t, "rm -rf /etc/libvirt/hooks "+hookinstall.HooksTold())
		restart(t)
		roottest.Do(t, record.Hooks{})
		inEffect(fmt.Sprint("told while it starts, ", i))
	}
	// Somebody takes the scripts away; the note that they are known is left.
	roottest.Sh(t, "rm -rf /etc/libvirt/hooks")
	restart(t)
	roottest.VirshOK(t, "net-list") // its drivers are there
	roottest.Do(t, record.Hooks{})
	inEffect("scripts that were gone")
}

// A daemon that cannot answer before its network's hook has ended is told of
// its hooks all the same, by two at once too: that hook needs the manifests.
func TestTellingADaemonKeepsNoHookWaiting(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Must(t, os.MkdirAll(rootfile.LockDir, rootfile.OwnMode))
	// On this signal libvirtd starts to wait for what its other threads do.
	daemon := filepath.Join(work, "libvirtd")
	roottest.Must(t, os.WriteFile(daemon, []byte(`#!/bin/sh
trap 'flock -w 20 `+rootfile.LockDir+`/manifest true || echo "waited in vain" >`+work+`/late; rm -f `+hookinstall.Question("$$")+`' HUP
echo $$ >/run/libvirtd.pid
while :; do sleep 0.05; done
`), 0o755))
	// A shell sets no trap for a signal that the tests were started to ignore.
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
	t.Logf("told after %v", time.Since(began))
	if ok, err := hookinstall.Current("/proc/self/exe"); !ok || err != nil {
		t.Errorf("current: %v %v", ok, err)
	}

	// Somebody changes a script while the daemon is told: nothing is noted.
	roottest.Must(t, os.WriteFile(rootfile.HookScript("qemu"), []byte(hookinstall.ScriptText("qemu")+"# older\n"), 0o755))
	_, err := root.New(root.Options{Euid: 0}).Do(t.Context(), record.Hooks{}, func(line string, _ float64) {
		if strings.HasPrefix(line, "telling ") {
			_ = os.Remove(rootfile.HookScript("network"))
		}
	})
	if err == nil || !strings.Contains(err.Error(), "was changed while") {
		t.Error(err)
	}
	if hookinstall.Known() {
		t.Error("noted as known")
	}
	roottest.Do(t, record.Hooks{})
}
