package sshcfg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

func hints(err error) string {
	var e *ui.Error
	if errors.As(err, &e) {
		return strings.Join(e.HintLines(), "\n")
	}
	return ""
}

func TestFirstAndSecondRun(t *testing.T) {
	l := newLayout(t)
	want := stanzaFor(l, "a")
	as := apply(t, l, want)
	if got := ids(as); !slices.Equal(got, []string{"ssh.config:a", "ssh.include"}) {
		t.Fatal(got)
	}
	if as[0].Consent != plan.None || as[1].Consent != plan.Ask || !strings.Contains(as[1].Diff, "+Include ") {
		t.Errorf("%+v", as)
	}
	for path, m := range map[string]os.FileMode{
		filepath.Join(l.Home, ".ssh"): 0o700, l.sshConfig(): 0o600, l.ConfigDir: 0o700, l.ConfPath("a"): 0o600,
	} {
		if got := mode(t, path); got != m {
			t.Errorf("%s: mode %04o", path, got)
		}
	}
	if as := apply(t, l, want); len(as) != 0 {
		t.Errorf("second run: %v", ids(as))
	}
	// Another VM only needs its own file, and so does a new address.
	if got := ids(apply(t, l, stanzaFor(l, "b"))); !slices.Equal(got, []string{"ssh.config:b"}) {
		t.Error(got)
	}
	want.HostName = "10.77.0.51"
	if got := ids(apply(t, l, want)); !slices.Equal(got, []string{"ssh.config:a"}) {
		t.Error(got)
	}
	if err := os.Chmod(l.ConfPath("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := ids(apply(t, l, want)); !slices.Equal(got, []string{"ssh.config:a"}) || mode(t, l.ConfPath("a")) != 0o600 {
		t.Error(got)
	}
	if es, _ := filepath.Glob(filepath.Join(l.Home, ".ssh", "*")); len(es) != 1 {
		t.Errorf("leftover files: %v", es)
	}
}

func TestDiffGolden(t *testing.T) {
	l := newLayout(t)
	write(t, l.sshConfig(), "# mine\nHost x\n  User y\nHost *\n  Compression yes\n", 0o600)
	as, err := Plan(Observe(l, stanzaFor(l, "a")), stanzaFor(l, "a"))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "include.diff", []byte(strings.ReplaceAll(as[1].Diff, l.Home, "/home/u")))
}

func TestKeepsSymlinkModeAndBackup(t *testing.T) {
	l := newLayout(t)
	dots := filepath.Join(l.Home, "dotfiles")
	write(t, filepath.Join(dots, "ssh_config"), "Host x\r\n  User y\r\n", 0o640)
	if err := os.MkdirAll(filepath.Join(l.Home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("ssh_config", filepath.Join(dots, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../dotfiles/link", l.sshConfig()); err != nil {
		t.Fatal(err)
	}
	apply(t, l, stanzaFor(l, "a"))
	if to, err := os.Readlink(l.sshConfig()); err != nil || to != "../dotfiles/link" {
		t.Errorf("the link became %q, %v", to, err)
	}
	if got := read(t, filepath.Join(dots, "ssh_config")); !strings.HasPrefix(got, "# >>> aivm store "+l.ConfigDir+" >>>\r\n") || !strings.HasSuffix(got, "Host x\r\n  User y\r\n") {
		t.Errorf("%q", got)
	}
	if m := mode(t, l.sshConfig()); m != 0o640 {
		t.Errorf("mode %04o", m)
	}
	if got := read(t, l.BackupPath()); got != "Host x\r\n  User y\r\n" {
		t.Errorf("backup %q", got)
	}
	// The backup of the first version is not overwritten.
	write(t, filepath.Join(dots, "ssh_config"), "Host changed\n", 0o640)
	apply(t, l, stanzaFor(l, "a"))
	if got := read(t, l.BackupPath()); got != "Host x\r\n  User y\r\n" {
		t.Errorf("backup replaced by %q", got)
	}
}

func TestDanglingLink(t *testing.T) {
	l := newLayout(t)
	if err := os.MkdirAll(filepath.Join(l.Home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", l.sshConfig()); err != nil {
		t.Fatal(err)
	}
	apply(t, l, stanzaFor(l, "a"))
	if got := read(t, filepath.Join(l.Home, ".ssh", "real")); !strings.Contains(got, "Include ") {
		t.Error(got)
	}
}

func TestReadOnly(t *testing.T) {
	setups := map[string]func(t *testing.T, l Layout){
		"file": func(t *testing.T, l Layout) { write(t, l.sshConfig(), "Host x\n", 0o444) },
		"directory": func(t *testing.T, l Layout) {
			write(t, l.sshConfig(), "Host x\n", 0o600)
			chmod(t, filepath.Dir(l.sshConfig()), 0o500)
		},
		"directory of the target": func(t *testing.T, l Layout) {
			target := filepath.Join(l.Home, "store", "config")
			write(t, target, "Host x\n", 0o600)
			chmod(t, filepath.Dir(target), 0o500)
			if err := os.MkdirAll(filepath.Join(l.Home, ".ssh"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, l.sshConfig()); err != nil {
				t.Fatal(err)
			}
		},
		"not a file": func(t *testing.T, l Layout) {
			if err := os.MkdirAll(l.sshConfig(), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"device": func(t *testing.T, l Layout) {
			if err := os.MkdirAll(filepath.Join(l.Home, ".ssh"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/dev/null", l.sshConfig()); err != nil {
				t.Fatal(err)
			}
		},
		"circular link": func(t *testing.T, l Layout) {
			if err := os.MkdirAll(filepath.Join(l.Home, ".ssh"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("config", l.sshConfig()); err != nil {
				t.Fatal(err)
			}
		},
	}
	if os.Getuid() != 0 { // root can read all files
		setups["unreadable"] = func(t *testing.T, l Layout) { write(t, l.sshConfig(), "Host x\n", 0) }
	}
	for name, setup := range setups {
		t.Run(name, func(t *testing.T) {
			l := newLayout(t)
			setup(t, l)
			want := stanzaFor(l, "a")
			as, err := Plan(Observe(l, want), want)
			if !errors.Is(err, ErrReadOnly) {
				t.Fatalf("%v, %v", ids(as), err)
			}
			line, _ := l.IncludeLine()
			if h := hints(err); !strings.Contains(h, line) || !strings.Contains(h, "aivm vm ssh-config NAME") {
				t.Errorf("hints %q", h)
			}
			// aivm's own file can still be written.
			if got := ids(as); !slices.Equal(got, []string{"ssh.config:a"}) {
				t.Error(got)
			}
			do(t, as)
		})
	}
}

func chmod(t *testing.T, dir string, m os.FileMode) {
	t.Helper()
	if err := os.Chmod(dir, m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
}

func TestReadOnlyWithManualLine(t *testing.T) {
	l := newLayout(t)
	line, _ := l.IncludeLine()
	write(t, l.sshConfig(), line+"\nHost x\n", 0o444)
	if as := apply(t, l, stanzaFor(l, "a")); len(as) != 1 {
		t.Error(ids(as))
	}
	if as := apply(t, l, stanzaFor(l, "a")); len(as) != 0 {
		t.Error(ids(as))
	}
}

func TestAliasTaken(t *testing.T) {
	for name, c := range map[string]struct{ main, extra, at string }{
		"in the file":    {"Host x\n\nHost work a\n  User me\n", "", "config line 3"},
		"in an include":  {"Include conf.d/*\n", "# c\nHost a\n", "conf.d/extra line 2"},
		"beside a Match": {"Match exec \"true\" user x\n User y\nhost=a\n", "", "config line 3"},
	} {
		l := newLayout(t)
		write(t, l.sshConfig(), c.main, 0o600)
		if c.extra != "" {
			write(t, filepath.Join(l.Home, ".ssh", "conf.d", "extra"), c.extra, 0o600)
		}
		as, err := Plan(Observe(l, stanzaFor(l, "a")), stanzaFor(l, "a"))
		if !errors.Is(err, ErrAliasTaken) || !strings.Contains(err.Error(), c.at) || len(as) != 0 {
			t.Errorf("%s: %v %v", name, ids(as), err)
		}
		for _, alias := range []string{"b", "aa"} {
			if _, err := Plan(Observe(l, stanzaFor(l, alias)), stanzaFor(l, alias)); err != nil {
				t.Errorf("%s: %s: %v", name, alias, err)
			}
		}
	}
	l := newLayout(t)
	write(t, l.sshConfig(), "Host *\nHost a* !a\nHost ?\n", 0o600)
	if cs := Others(l, "a"); len(cs) != 0 {
		t.Errorf("patterns count as a clash: %v", cs)
	}
}

func TestBlockOf03(t *testing.T) {
	l := newLayout(t)
	old := "Host x\n\n# >>> aivm:a >>>\nHost a\n  HostName 1.2.3.4\n# <<< aivm:a <<<\n"
	write(t, l.sshConfig(), old, 0o600)
	as := apply(t, l, stanzaFor(l, "a"))
	if len(as) != 2 || !strings.Contains(as[0].Why, "0.3") || !strings.Contains(as[0].Why, "line 4") {
		t.Errorf("%+v", as)
	}
	if got := read(t, l.sshConfig()); !strings.HasSuffix(got, old) {
		t.Error(got)
	}
	if !strings.Contains(sshG(t, l.sshConfig(), "a"), "\nhostname 10.77.0.50\n") {
		t.Error("ssh uses the values of the old block")
	}
}

func TestRemove(t *testing.T) {
	l := newLayout(t)
	before := "# mine\r\nHost x\r\n"
	write(t, l.sshConfig(), before, 0o600)
	for _, vm := range []string{"a", "b"} {
		k, err := NewHostKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.SaveHostKey(vm+"_VM", k); err != nil {
			t.Fatal(err)
		}
		if err := l.WriteKnownHosts(vm+"_VM", "aivm-"+vm, k.Public); err != nil {
			t.Fatal(err)
		}
		s := stanzaFor(l, vm)
		s.KnownHosts = l.KnownHostsPath(vm + "_VM")
		apply(t, l, s)
	}
	write(t, filepath.Join(l.VMDir("b_VM"), "sync.json"), "{}", 0o600)
	remove := func(alias string) []string {
		as, err := PlanRemove(ObserveRemains(l, alias+"_VM", alias))
		if err != nil {
			t.Fatal(err)
		}
		do(t, as)
		return ids(as)
	}
	if got := remove("a"); !slices.Equal(got, []string{"ssh.remove:a"}) {
		t.Error(got)
	}
	if _, err := os.Stat(l.VMDir("a_VM")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state of a: %v", err)
	}
	if read(t, l.sshConfig()) == before {
		t.Error("the Include was removed although there is another VM")
	}
	if got := remove("b"); !slices.Equal(got, []string{"ssh.remove:b", "ssh.include.remove"}) {
		t.Error(got)
	}
	if got := read(t, l.sshConfig()); got != before {
		t.Errorf("%q", got)
	}
	if read(t, filepath.Join(l.VMDir("b_VM"), "sync.json")) != "{}" {
		t.Error("a file of another package was removed")
	}
	if got := remove("b"); len(got) != 0 {
		t.Error(got)
	}
}

func TestRemoveWithReadOnlyConfig(t *testing.T) {
	l := newLayout(t)
	apply(t, l, stanzaFor(l, "a"))
	if err := os.Chmod(l.sshConfig(), 0o400); err != nil {
		t.Fatal(err)
	}
	as, err := PlanRemove(ObserveRemains(l, "a", "a"))
	if err != nil || len(as) != 1 || !strings.Contains(as[0].Why, "stays") {
		t.Errorf("%+v, %v", as, err)
	}
}

func TestFileChangedDuringEdit(t *testing.T) {
	l := newLayout(t)
	write(t, l.sshConfig(), "Host x\n", 0o600)
	n := 0
	saving := func(l Layout) Layout {
		l.beforeSwap = func() {
			if n++; n <= 3 {
				write(t, l.sshConfig(), fmt.Sprintf("Host saved%d\n", n), 0o600)
			}
		}
		return l
	}
	l = saving(l)
	apply(t, l, stanzaFor(l, "a"))
	if got := read(t, l.sshConfig()); !strings.HasPrefix(got, storeBegin) || !strings.HasSuffix(got, "Host saved3\n") {
		t.Errorf("%q", got)
	}
	// The same if the file does not exist and is created in between.
	l = saving(newLayout(t))
	n = 2
	apply(t, l, stanzaFor(l, "a"))
	if got := read(t, l.sshConfig()); !strings.HasSuffix(got, "Host saved3\n") {
		t.Errorf("%q", got)
	}
}

func TestConcurrentEdits(t *testing.T) {
	l := newLayout(t)
	write(t, l.sshConfig(), "Host x\n", 0o600)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() {
			line := fmt.Sprintf("# writer %d\n", i)
			errs[i] = l.edit(context.Background(), func(data []byte) ([]byte, error) {
				return append(slices.Clone(data), line...), nil
			})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got := read(t, l.sshConfig())
	if n := strings.Count(got, "# writer "); n != len(errs) {
		t.Errorf("%d of %d lines:\n%s", n, len(errs), got)
	}
}

func TestValidAlias(t *testing.T) {
	for _, s := range []string{"a", "0", "my-vm-2", strings.Repeat("x", 63)} {
		if err := ValidAlias(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "-a", "A", "a.b", "a_b", "a b", "a@b", "ä", "a\n", strings.Repeat("x", 64)} {
		if ValidAlias(s) == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestDefaultLayout(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	l := DefaultLayout("/home/u", noenv)
	if l.ConfigDir != "/home/u/.config/aivm/ssh" || l.StateDir != "/home/u/.local/state/aivm" || l.sshConfig() != "/home/u/.ssh/config" {
		t.Errorf("%+v", l)
	}
	l = DefaultLayout("/home/u", env(map[string]string{"HOME": "/tmp/h", "XDG_STATE_HOME": "rel", "XDG_CONFIG_HOME": "/c"}))
	if l.ConfigDir != "/c/aivm/ssh" || l.StateDir != "/tmp/h/.local/state/aivm" || l.sshConfig() != "/home/u/.ssh/config" {
		t.Errorf("%+v", l)
	}
	l = DefaultLayout("/home/u", env(map[string]string{ConfigEnv: "~/alt"}))
	if l.sshConfig() != "/home/u/alt" || !slices.Equal(l.SSHArgs(), []string{"-F", "/home/u/alt"}) {
		t.Errorf("%+v %v", l, l.SSHArgs())
	}
	home, err := SSHHome()
	if err != nil {
		t.Fatal(err)
	}
	if args := DefaultLayout(home, noenv).SSHArgs(); args != nil {
		t.Error(args)
	}
}

// Two stores with different state directories repeatedly edit the same file concurrently: in
// the end it has the Include of each, and the user's lines.
func TestTwoStoresConcurrently(t *testing.T) {
	a := newLayout(t)
	b := a
	b.ConfigDir, b.StateDir = filepath.Join(a.Home, "two", "aivm", "ssh"), filepath.Join(a.Home, "twostate", "aivm")
	const user = "Host x\n  User y\n"
	write(t, a.sshConfig(), user, 0o600)
	var wg sync.WaitGroup
	for _, l := range []Layout{a, b} {
		wg.Go(func() {
			for n := range 21 {
				err := l.edit(t.Context(), func(data []byte) ([]byte, error) {
					if n%2 == 1 {
						return removeInclude(data, l.storeIn(data))
					}
					return ensureInclude(data, l.storeIn(data))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := read(t, a.sshConfig())
	for _, l := range []Layout{a, b} {
		line, _ := l.IncludeLine()
		if strings.Count(got, line+"\n") != 1 {
			t.Errorf("%s in %q", line, got)
		}
		out, err := removeInclude([]byte(got), l.storeIn([]byte(got)))
		if err != nil {
			t.Fatal(err)
		}
		got = string(out)
	}
	if got != user {
		t.Errorf("%q", got)
	}
	if es, err := os.ReadDir(filepath.Dir(a.sshConfig())); err != nil || len(es) != 1 {
		t.Errorf("leftover files: %v %v", es, err)
	}
}
