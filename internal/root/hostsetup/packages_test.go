package hostsetup_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/hostsetup"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/roottest"
)

// aptRepo is an apt repository in one folder, with empty packages.
type aptRepo struct {
	dir   string
	index strings.Builder
	more  string // further control lines of the packages added next
}

func (r *aptRepo) add(t *testing.T, name, postinst string) {
	t.Helper()
	tree := filepath.Join(r.dir, "src-"+name, "DEBIAN")
	roottest.Must(t, os.MkdirAll(tree, 0o755))
	control := "Package: " + name + "\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: nothing\n" + r.more
	roottest.Must(t, os.WriteFile(filepath.Join(tree, "control"), []byte(control), 0o644))
	roottest.Must(t, os.WriteFile(filepath.Join(tree, "postinst"), []byte("#!/bin/sh\n"+postinst+"\n"), 0o755))
	deb := filepath.Join(r.dir, name+".deb")
	roottest.Sh(t, "dpkg-deb --root-owner-group --build "+filepath.Dir(tree)+" "+deb)
	b, err := os.ReadFile(deb)
	roottest.Must(t, err)
	fmt.Fprintf(&r.index, "%sFilename: ./%s.deb\nSize: %d\nSHA256: %x\n\n", control, name, len(b), sha256.Sum256(b))
	roottest.Must(t, os.WriteFile(filepath.Join(r.dir, "Packages"), []byte(r.index.String()), 0o644))
}

// The real apt and dpkg, with copies of their state directories.
func TestPackages(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	if _, err := program.Find("apt-get"); err != nil {
		roottest.Refuses(t, record.Packages{Manager: "apt", Names: []string{"git"}}, "no apt-get")
		return
	}
	roottest.Must(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	repo := &aptRepo{dir: filepath.Join(work, "repo")}
	for _, dir := range []string{"etc", "dpkg", "apt", "cache", "log"} {
		roottest.Must(t, os.MkdirAll(filepath.Join(work, "c", dir), 0o755))
	}
	roottest.Sh(t, "cd "+work+"/c && tar -C /etc --exclude=./libvirt -cf - . | tar -C etc -xpf - && cp -a /var/lib/dpkg/. dpkg && rm -rf etc/apt/* && mkdir etc/apt/apt.conf.d etc/apt/preferences.d etc/apt/trusted.gpg.d log/apt")
	roottest.Must(t, os.WriteFile(work+"/c/etc/apt/sources.list", []byte("deb [trusted=yes] file:"+repo.dir+" ./\n"), 0o644))
	for from, to := range map[string]string{"etc": "/etc", "dpkg": "/var/lib/dpkg", "apt": "/var/lib/apt", "cache": "/var/cache/apt", "log": "/var/log"} {
		roottest.Must(t, unix.Mount(filepath.Join(work, "c", from), to, "", unix.MS_BIND, ""))
	}
	repo.add(t, "aivm-test-a", "true")

	// Without lists they are fetched first, and progress never decreases.
	last, lines := -1.0, ""
	progress := func(l string, f float64) {
		lines += l + "\n"
		if f >= 0 && f < last {
			t.Errorf("progress decreased from %g to %g at %q", last, f, l)
		}
		last = max(last, f)
	}
	root := root.New(root.Options{})
	install := func(ctx context.Context, names ...string) error {
		_, err := root.Do(ctx, record.Packages{Manager: "apt", Names: names}, progress)
		return err
	}
	roottest.Must(t, install(t.Context(), "aivm-test-a", "dpkg"))
	if !strings.Contains(lines, "apt-get update") || !strings.Contains(lines, "aivm-test-a") || last < 0.9 {
		t.Errorf("last fraction %g, progress %q", last, lines)
	}
	// A package that was added after the lists were fetched.
	repo.add(t, "aivm-test-b", "true")
	last = -1
	roottest.Must(t, install(t.Context(), "aivm-test-a", "aivm-test-b"))
	if m := hostsetup.MissingPackages(t.Context(), []string{"aivm-test-a", "aivm-test-b", "aivm-test-c"}); len(m) != 1 || m[0] != "aivm-test-c" {
		t.Errorf("missing: %v", m)
	}
	// A package that does not exist; and one whose installation fails, and succeeds later.
	roottest.Refuses(t, record.Packages{Manager: "apt", Names: []string{"aivm-test-c"}}, "apt-get", "exit status 100", "aivm-test-c")
	repo.add(t, "aivm-test-d", "[ -e "+work+"/fixed ] || { echo because >&2; exit 1; }")
	roottest.Refuses(t, record.Packages{Manager: "apt", Names: []string{"aivm-test-d"}}, "apt-get", "aivm-test-d")
	roottest.Must(t, os.WriteFile(work+"/fixed", nil, 0o644))
	last = -1
	roottest.Must(t, install(t.Context(), "aivm-test-d"))

	// Names that apt interprets as more than a name install and remove nothing, and no
	// installed package is removed because of a new one.
	missing := func() string {
		t.Helper()
		return strings.Join(hostsetup.MissingPackages(t.Context(), []string{"aivm-test-a", "aivm-test-b", "aivm-test-d", "aivm-test-e", "aivm-test-f"}), " ")
	}
	repo.add(t, "aivm-test-e", "true")
	repo.more = "Conflicts: aivm-test-a\n"
	repo.add(t, "aivm-test-f", "true")
	for _, name := range []string{"aivm-test-a-", "aivm-test-e+", "aivm-test.e", "aivm-test-e.", "aivm-test-f"} {
		last = -1
		if err := install(t.Context(), name); err == nil {
			t.Errorf("%s was installed", name)
		}
	}
	if got := missing(); got != "aivm-test-e aivm-test-f" {
		t.Fatalf("missing afterwards: %s", got)
	}

	// For an installed package nothing runs, and the lock is not waited for.
	holdLock(t, "/var/lib/dpkg/lock-frontend")
	roottest.Must(t, install(t.Context(), "aivm-test-a"))
	// For a missing one, progress names the holder of the lock, and the wait can be
	// cancelled.
	ctx, cancel := context.WithCancel(t.Context())
	_, err := root.Do(ctx, record.Packages{Manager: "apt", Names: []string{"aivm-test-c"}}, func(l string, _ float64) { lines = l; cancel() })
	if !errors.Is(err, context.Canceled) || !strings.Contains(lines, "waiting for ") || !strings.Contains(lines, "pid") {
		t.Errorf("error %v, progress %q", err, lines)
	}
}
