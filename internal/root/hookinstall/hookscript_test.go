package hookinstall_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// Where the hook script cannot run cat, as under an administrator's AppArmor profile, it
// still distinguishes aivm's objects from those of other programs.
func TestScriptWithoutCat(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.StageHooks(t, work)
	roottest.Do(t, record.Hooks{})
	roottest.Must(t, os.WriteFile(rootfile.NetManifestPath("walled"), []byte("{"), 0o644))
	for _, n := range []string{"0-own", "0-x-plain", "-plain", "x-plain"} {
		roottest.Must(t, os.WriteFile(rootfile.VMManifestPath(n), []byte("{"), 0o644))
	}
	// The program records its stdin and exits with status 7.
	roottest.Must(t, os.WriteFile(rootfile.HookProgram, []byte("#!/bin/sh\nwhile IFS= read -r l; do printf '%s\\n' \"$l\"; done >"+work+"/read\nexit 7\n"), 0o755))
	const (
		none   = 0
		failed = 7
	)
	hook := func(what string, want int, kind, name, op, xml string) {
		t.Helper()
		began := time.Now()
		c := exec.Command(rootfile.HookScript(kind), name, op, "begin", "-")
		c.Stdin = strings.NewReader(xml)
		out, err := c.CombinedOutput()
		got := 0
		var e *exec.ExitError
		if errors.As(err, &e) {
			got = e.ExitCode()
		} else {
			roottest.Must(t, err)
		}
		if got != want {
			t.Errorf("%s: status %d, want %d: %s", what, got, want, out)
		}
		t.Logf("%s: %v", what, time.Since(began))
		if b, _ := os.ReadFile(filepath.Join(work, "read")); want == failed && strings.TrimSpace(string(b)) != strings.TrimSpace(xml) {
			t.Errorf("%s: the program read %d bytes that differ from the %d bytes of libvirt", what, len(b), len(xml))
		}
	}
	vm := func(name, in string) string {
		// A definition of usual size.
		return "<domain type='kvm'>\n  <name>" + name + "</name>\n" + in + "\n" + strings.Repeat("  <devices>\\n</devices>\n", 300) + "</domain>"
	}
	card := "<interface type='network'>\n  <source network='walled'/>\n</interface>"
	all := func(when string) {
		t.Helper()
		hook(when+"another program's VM", none, "qemu", "plain", "prepare", vm("plain", "<description>a\\b  c</description>"))
		hook(when+"a VM of aivm's", failed, "qemu", "own", "prepare", vm("own", roottest.Mark))
		hook(when+"a VM on a network of aivm's", failed, "qemu", "plain", "prepare", vm("plain", card))
		hook(when+"a network of aivm's", failed, "network", "walled", "start", "<network>\n<name>walled</name>\n"+roottest.Mark+"\n</network>\n")
		hook(when+"another program's network", none, "network", "other", "start", "<network>\n<name>other</name>\n</network>\n")
		hook(when+"another program's VM, without XML", none, "qemu", "plain", "prepare", "")
		hook(when+"a VM of aivm's, without XML", failed, "qemu", "own", "prepare", "")
		hook(when+"an odd name, without XML", none, "qemu", "*", "prepare", "")
	}
	all("")
	notExecutable := filepath.Join(work, "no")
	roottest.Must(t, os.WriteFile(notExecutable, nil, 0o644))
	cat, err := program.Find("cat")
	roottest.Must(t, err)
	roottest.Must(t, unix.Mount(notExecutable, cat, "", unix.MS_BIND, ""))
	if err := exec.Command(cat, "/dev/null").Run(); !errors.Is(err, os.ErrPermission) {
		t.Fatalf("cat still runs: %v", err)
	}
	all("without cat: ")
}
