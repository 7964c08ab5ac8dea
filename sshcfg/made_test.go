package sshcfg

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// deleteVM removes the files of the VM, as "vm delete" does, and returns the reasons in the plan.
func deleteVM(t *testing.T, l Layout, alias string) string {
	t.Helper()
	as, err := PlanRemove(ObserveRemains(l, alias, alias))
	if err != nil {
		t.Fatal(err)
	}
	var why []string
	for _, a := range as {
		why = append(why, a.Why)
	}
	do(t, as)
	return strings.Join(why, "\n")
}

// A configuration that aivm made and nobody changed disappears with the last VM, with its
// directory if aivm made that. Anything of the user in it keeps it.
func TestMadeConfigIsRemoved(t *testing.T) {
	for name, tc := range map[string]struct {
		before, meanwhile func(t *testing.T, l Layout)
		file, dir         bool // remain
	}{
		"nothing existed":             {},
		"the directory existed":       {before: func(t *testing.T, l Layout) { mkdir(t, filepath.Dir(l.sshConfig())) }, dir: true},
		"another file in it":          {meanwhile: func(t *testing.T, l Layout) { write(t, filepath.Join(l.Home, ".ssh", "known_hosts"), "x\n", 0o600) }, dir: true},
		"an empty file of the user's": {before: func(t *testing.T, l Layout) { write(t, l.sshConfig(), "", 0o600) }, file: true, dir: true},
		"the user added a line": {meanwhile: func(t *testing.T, l Layout) {
			write(t, l.sshConfig(), read(t, l.sshConfig())+"# mine\n", 0o600)
		}, file: true, dir: true},
		"the user made it again, killed in between": {before: func(t *testing.T, l Layout) {
			apply(t, l, stanzaFor(l, "z"))
			write(t, l.sshConfig(), "", 0o600)
			if err := os.Remove(l.ConfPath("z")); err != nil {
				t.Fatal(err)
			}
		}, file: true, dir: true},
		"the user replaced it by a link": {meanwhile: func(t *testing.T, l Layout) {
			to := filepath.Join(l.Home, "dotfile")
			if err := errors.Join(os.Rename(l.sshConfig(), to), os.Symlink(to, l.sshConfig())); err != nil {
				t.Fatal(err)
			}
		}, file: true, dir: true},
		"a record of a later aivm": {meanwhile: func(t *testing.T, l Layout) {
			write(t, l.madePath(), `{"version":2,"file":"`+l.sshConfig()+`","dir":true}`, 0o600)
		}, file: true, dir: true},
		"a damaged record": {meanwhile: func(t *testing.T, l Layout) { write(t, l.madePath(), "{", 0o600) }, file: true, dir: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout(t)
			if tc.before != nil {
				tc.before(t, l)
			}
			apply(t, l, stanzaFor(l, "a"))
			apply(t, l, stanzaFor(l, "b"))
			if tc.meanwhile != nil {
				tc.meanwhile(t, l)
			}
			deleteVM(t, l, "a")
			if !strings.Contains(read(t, l.sshConfig()), l.ConfigDir) {
				t.Error("the Include line was removed although there is another VM")
			}
			why := deleteVM(t, l, "b")
			_, ferr := os.Lstat(l.sshConfig())
			_, derr := os.Lstat(filepath.Dir(l.sshConfig()))
			if (ferr == nil) != tc.file || (derr == nil) != tc.dir || strings.Contains(why, "which aivm created") == tc.file {
				t.Errorf("file: %v, directory: %v, plan %q", ferr, derr, why)
			}
			if tc.file && strings.Contains(read(t, l.sshConfig()), l.ConfigDir) {
				t.Errorf("the Include line stays: %q", read(t, l.sshConfig()))
			}
			if !tc.file {
				if _, err := os.Lstat(l.madePath()); !errors.Is(err, fs.ErrNotExist) {
					t.Error("the record stays:", err)
				}
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

// A line that a text editor saves while the file is removed is kept.
func TestMadeConfigSavedDuringRemoval(t *testing.T) {
	l := newLayout(t)
	apply(t, l, stanzaFor(l, "a"))
	as, err := PlanRemove(ObserveRemains(l, "a", "a"))
	if err != nil {
		t.Fatal(err)
	}
	saved := l
	n := 0
	saved.beforeSwap = func() {
		if n++; n == 1 {
			write(t, l.sshConfig(), read(t, l.sshConfig())+"# saved\n", 0o600)
		}
	}
	if err := saved.edit(t.Context(), func(data []byte) ([]byte, error) { return removeInclude(data, l.storeIn(data)) }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, l.sshConfig()); got != "# saved\n" || len(as) != 2 {
		t.Errorf("%q, %v", got, ids(as))
	}
}

// A file that cannot be replaced is found before anything is done, whatever prevents it: the
// mode and the directory tell it of some, attributes and mounts do not.
func TestUnreplaceable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("run this test as root: attributes and mounts need it")
	}
	chattr := func(t *testing.T, flag, path string) {
		t.Helper()
		for _, f := range []string{"+" + flag, "-" + flag} {
			run := func() error { return exec.Command("chattr", f, path).Run() }
			if f[0] == '-' {
				t.Cleanup(func() { _ = run() })
			} else if err := run(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		block func(t *testing.T, file string)
		want  string
	}{
		"immutable":                {func(t *testing.T, file string) { chattr(t, "i", file) }, "is immutable (chattr +i)"},
		"append only":              {func(t *testing.T, file string) { chattr(t, "a", file) }, "can only be appended to"},
		"an immutable directory":   {func(t *testing.T, file string) { chattr(t, "i", filepath.Dir(file)) }, "is not writable"},
		"an append-only directory": {func(t *testing.T, file string) { chattr(t, "a", filepath.Dir(file)) }, "can only be appended to"},
		"a mount point": {func(t *testing.T, file string) {
			if err := unix.Mount(file, file, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
		}, "is a mount point"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout(t)
			write(t, l.sshConfig(), "Host x\n", 0o600)
			tc.block(t, l.sshConfig())
			as, err := Plan(Observe(l, stanzaFor(l, "a")), stanzaFor(l, "a"))
			if !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), tc.want) || len(as) != 1 || as[0].ID != "ssh.config:a" {
				t.Errorf("%v, %v", ids(as), err)
			}
			if !strings.Contains(hints(err), "Include "+l.ConfigDir) {
				t.Errorf("the line to add is missing: %s", hints(err))
			}
		})
	}
}
