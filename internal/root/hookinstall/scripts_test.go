package hookinstall

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/root/rootfile"
)

// The scripts have no placeholder left, network.sh and qemu.sh begin with the same code,
// and shellcheck accepts them where it is installed.
func TestScripts(t *testing.T) {
	for _, kind := range rootfile.HookKinds {
		s := scriptText(kind)
		if !strings.HasPrefix(s, "#!/bin/sh\n"+hookMark+"\n") || regexp.MustCompile(`@[A-Z]+@`).MatchString(s) {
			t.Errorf("%s:\n%s", kind, s)
		}
		if checker, err := exec.LookPath("shellcheck"); err == nil {
			c := exec.Command(checker, "-s", "sh", "-")
			c.Stdin = strings.NewReader(s)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", kind, err, out)
			}
		}
	}
	head := func(kind string) string {
		h, _, ok := strings.Cut(scriptText(kind), "\nrun() {\n")
		if !ok {
			t.Errorf("%s has no run", kind)
		}
		return h
	}
	if head("network") != head("qemu") {
		t.Error("network.sh and qemu.sh begin differently")
	}
	if !strings.Contains(scriptText("daemon"), "\nf="+reloadFile("$PPID")+"\n") {
		t.Error("daemon.sh does not remove the reload file")
	}
}
