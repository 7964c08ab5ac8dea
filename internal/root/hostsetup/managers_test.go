package hostsetup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/hostsetup"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/ui"
)

// fakeProgram replaces a program by a shell script, in dir and where Find looks first.
// The mount ends with the test's namespace.
func fakeProgram(t *testing.T, dir, name, script string) {
	t.Helper()
	p := filepath.Join(dir, name)
	roottest.Must(t, os.WriteFile(p, []byte("#!/bin/sh\necho "+name+" \"$@\" >>"+dir+"/log\n"+script+"\n"), 0o755))
	if installed, err := program.Find(name); err == nil && installed != p {
		roottest.Must(t, unix.Mount(p, installed, "", unix.MS_BIND, ""))
	}
}

// The commands that dnf, zypper and pacman get, and the handling of their results.
func TestOtherManagers(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Must(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	roottest.Stage(t, work, unix.MS_PRIVATE)
	bin := filepath.Join(work, "bin")
	roottest.Must(t, os.Mkdir(bin, 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("OUT", "0")
	fakeProgram(t, bin, "rpm", `[ "$4" = there ]`)
	fakeProgram(t, bin, "dnf", "echo 'Installing: x'; exit $OUT")
	fakeProgram(t, bin, "zypper", "echo \"waits $ZYPP_LOCK_TIMEOUT\"; exit $OUT")
	fakeProgram(t, bin, "pacman", `[ "$1" != -T ] || { shift 2; for n; do [ "$n" = there ] || { echo "$n"; bad=127; }; done; exit ${bad:-0}; }; echo "error: 404" >&2; exit $OUT`)
	log := func() string {
		b, err := os.ReadFile(bin + "/log")
		roottest.Must(t, err)
		roottest.Must(t, os.Remove(bin+"/log"))
		return string(b)
	}
	run := func(manager string, names ...string) (lines string, err error) {
		_, err = root.New(root.Options{}).Do(t.Context(), record.Packages{Manager: manager, Names: names}, func(l string, _ float64) { lines += l + "\n" })
		return lines, err
	}
	rpms := "rpm -q --whatprovides -- there\nrpm -q --whatprovides -- libx\n"
	for _, tt := range []struct{ manager, progress, want string }{
		{"dnf", "Installing: x", rpms + "dnf -y --setopt=install_weak_deps=False install libx\n"},
		{"zypper", "waits 600", rpms + "zypper --non-interactive install --no-recommends libx\n"},
		{"pacman", "", "pacman -T -- there libx\npacman -S --needed --noconfirm libx\n"},
	} {
		lines, err := run(tt.manager, "there", "libx")
		if got := log(); err != nil || got != tt.want || !strings.Contains(lines, tt.progress) {
			t.Errorf("%s: %v, progress %q, ran\n%s", tt.manager, err, lines, got)
		}
		if _, err := run(tt.manager, "there"); err != nil || strings.Count(log(), "\n") != 1 {
			t.Errorf("%s: an installed package: %v", tt.manager, err)
		}
	}
	t.Setenv("OUT", "1")
	if _, err := run("pacman", "libx"); err == nil || !strings.Contains(err.Error(), "error: 404") || !strings.Contains(errorHints(err), "pacman -Syu") {
		t.Errorf("%v, hints %q", err, errorHints(err))
	}
	for status, success := range map[string]bool{"102": true, "103": true, "104": false} {
		t.Setenv("OUT", status)
		if _, err := run("zypper", "libx"); (err == nil) != success {
			t.Errorf("zypper's exit status %s: %v", status, err)
		}
	}
	// pacman does not wait for another pacman, so aivm does.
	roottest.Must(t, os.MkdirAll("/var/lib/pacman", 0o755))
	roottest.Must(t, os.WriteFile("/var/lib/pacman/db.lck", nil, 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	waited := ""
	_, err := root.New(root.Options{}).Do(ctx, record.Packages{Manager: "pacman", Names: []string{"libx"}}, func(l string, _ float64) { waited = l; cancel() })
	if !errors.Is(err, context.Canceled) || !strings.Contains(waited, "db.lck") {
		t.Errorf("%v, progress %q", err, waited)
	}
	err = hostsetup.OtherManagers["pacman"].Wait(t.Context(), func(string, float64) {}, -time.Second)
	if err == nil || !strings.Contains(errorHints(err), "rm /var/lib/pacman/db.lck") {
		t.Errorf("a lock that stays: %v", err)
	}
}

func errorHints(err error) string {
	var e *ui.Error
	if errors.As(err, &e) {
		return strings.Join(e.HintLines(), "; ")
	}
	return ""
}
