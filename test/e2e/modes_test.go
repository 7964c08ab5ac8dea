package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A modeRule is one row of the table in docs/files.md.
type modeRule struct {
	pattern string
	re      *regexp.Regexp
	owners  []string
	mode    fs.FileMode
	others  string // what other users may do: "none", "pass" (enter a directory), "list", "read"
	hits    int    // how many paths matched
}

// modeTable reads the table in docs/files.md, for one VM of one user.
func modeTable(t *testing.T, home, vm string) []*modeRule {
	t.Helper()
	b, err := os.ReadFile("../../docs/files.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []*modeRule
	for line := range strings.Lines(string(b)) {
		cell := strings.Split(strings.TrimSpace(line), "|")
		if len(cell) != 7 || !strings.HasPrefix(strings.TrimSpace(cell[1]), "`") {
			continue
		}
		for i := range cell {
			cell[i] = strings.Trim(strings.TrimSpace(cell[i]), "`")
		}
		r := &modeRule{pattern: cell[1], owners: strings.Split(cell[2], " or "), others: cell[4]}
		m, err := strconv.ParseUint(cell[3], 8, 32)
		if err != nil || !slices.Contains([]string{"none", "pass", "list", "read"}, r.others) {
			t.Fatalf("docs/files.md: %s: %v", line, err)
		}
		r.mode = fs.FileMode(m)
		p := regexp.QuoteMeta(strings.ReplaceAll(cell[1], "VM", vm))
		p = strings.ReplaceAll(p, `\*\*`, `.+`)
		p = strings.ReplaceAll(p, `\*`, `[^/]*`)
		p = strings.Replace(p, "~", regexp.QuoteMeta(home), 1)
		r.re = regexp.MustCompile("^" + p + "$")
		out = append(out, r)
	}
	if len(out) < 40 {
		t.Fatalf("docs/files.md: only %d rows could be parsed", len(out))
	}
	return out
}

// setOldModes sets the more open modes with which an older aivm created its directories.
func setOldModes(t *testing.T) {
	t.Helper()
	runHost(t, "sh", "-c", "chmod 0711 /var/lib/libvirt/aivm; chmod 0444 /var/lib/libvirt/aivm/base-*; chmod 0755 /var/lib/aivm /var/lib/aivm/export")
}

// ownedInTemp returns the files that belong to uid in the directories in which everybody may create
// files.
func ownedInTemp(uid int) map[string]bool {
	owned := map[string]bool{}
	for _, top := range []string{"/tmp", "/var/tmp", "/run", "/dev/shm", "/var/lock"} {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if d != nil && err == nil {
				if st, err := os.Lstat(p); err == nil && int(st.Sys().(*syscall.Stat_t).Uid) == uid {
					owned[p] = true
				}
			}
			return nil
		})
	}
	return owned
}

// checkModes walks all files that aivm and libvirt created for one VM of a user, compares owners and
// modes with docs/files.md, and lets a second user try to open them. earlier has the user's files in
// temporary directories from before the test.
func checkModes(t *testing.T, home string, uid int, vm string, running bool, earlier map[string]bool) {
	t.Helper()
	rules := modeTable(t, home, vm)
	qemu, err := strconv.Atoi(strings.TrimSpace(runHost(t, "id", "-u", "libvirt-qemu")))
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{0: "root", qemu: "QEMU", uid: "you"}
	// In shared directories, check paths with the VM's name or aivm's; in aivm's own, all paths.
	named := func(p string) bool {
		return strings.Contains(p, vm) || strings.Contains(filepath.Base(p), "aivm")
	}
	all := func(string) bool { return true }
	var paths []string
	seen := map[string]string{} // path -> modeRule.others
	walk := func(top string, want func(string) bool) {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if d == nil || !want(p) || d.Type()&fs.ModeSymlink != 0 {
				return nil
			}
			st, serr := os.Lstat(p)
			if serr != nil {
				return nil // removed while the walk ran
			}
			sys := st.Sys().(*syscall.Stat_t)
			i := slices.IndexFunc(rules, func(r *modeRule) bool { return r.re.MatchString(p) })
			if i < 0 {
				t.Errorf("%s (uid %d, %04o) is not in docs/files.md", p, sys.Uid, st.Mode().Perm())
				return nil
			}
			r := rules[i]
			r.hits++
			if owner := names[int(sys.Uid)]; !slices.Contains(r.owners, owner) {
				t.Errorf("%s belongs to uid %d (%s), not to %v", p, sys.Uid, owner, r.owners)
			}
			if mode := fs.FileMode(sys.Mode & 0o7777); mode != r.mode {
				t.Errorf("%s has mode %04o, not %04o", p, uint32(mode), uint32(r.mode))
			}
			paths = append(paths, p)
			seen[p] = r.others
			// Below an export directory are mounts of users' folders.
			if filepath.Dir(p) == "/var/lib/aivm/export" {
				return fs.SkipDir
			}
			return nil
		})
	}
	for _, top := range []string{
		"/var/lib/libvirt/aivm", "/var/lib/aivm", "/usr/local/libexec/aivm", "/var/cache/aivm",
		home + "/.config/aivm", home + "/.local/state/aivm", home + "/.local/share/aivm", home + "/.cache/aivm", home + "/.ssh/config",
	} {
		walk(top, all)
	}
	for _, top := range []string{"/etc/libvirt", "/run/libvirt/qemu", "/var/log/libvirt", "/var/lib/libvirt/qemu"} {
		walk(top, named)
	}
	// The user must own no files in directories that docs/files.md does not list.
	for p := range ownedInTemp(uid) {
		if !earlier[p] {
			t.Errorf("%s was made by the user and is not in docs/files.md", p)
		}
	}
	for _, r := range rules {
		if r.hits == 0 {
			t.Logf("nothing at %s (VM running: %v)", r.pattern, running)
		}
	}

	// The images and disks that QEMU's command line names, which every user can read.
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	onLine := 0
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(b, []byte("guest="+vm+",")) {
			continue
		}
		for _, m := range regexp.MustCompile(`/var/lib/libvirt/aivm/[^",\x00]+`).FindAllString(string(b), -1) {
			onLine++
			if _, err := os.Lstat(m); seen[m] == "" && err == nil { // the seed is gone after the first boot
				t.Errorf("QEMU's command line names %s, which the walk did not find", m)
				paths = append(paths, m)
				seen[m] = "none"
			}
		}
	}
	if running && onLine < 2 {
		t.Errorf("QEMU's command line names only %d files, so this test shows nothing", onLine)
	}

	// A second user, who is in no other group, tries to open every path.
	const other = "aivm-e2e-other"
	_ = exec.Command("userdel", "-r", other).Run()
	runHost(t, "useradd", "-m", "-s", "/bin/sh", other)
	defer func() { _ = exec.Command("userdel", "-r", other).Run() }()
	c := exec.Command("sudo", "-u", other, "sh", "-c", `while IFS= read -r p; do
		if [ -d "$p" ]; then
			ls -- "$p" >/dev/null 2>&1 && printf 'list %s\n' "$p"
			touch "$p/.other" 2>/dev/null && printf 'WRITE %s\n' "$p"
			if cd -- "$p" 2>/dev/null; then printf 'pass %s\n' "$p"; cd /; fi
		else
			head -c 1 -- "$p" >/dev/null 2>&1 && printf 'read %s\n' "$p"
			[ -w "$p" ] && printf 'WRITE %s\n' "$p"
		fi
		if flock -n "$p" true 2>/dev/null; then printf 'lock %s\n' "$p"; fi
	done; true`)
	c.Stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("the second user: %v", err)
	}
	reached := 0
	for line := range strings.Lines(string(out)) {
		did, p, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		may := seen[p]
		ok := did == "pass" && may != "none" || did == "list" && may == "list" || did == "read" && may == "read" ||
			did == "lock" && (may == "list" || may == "read")
		reached++
		if !ok {
			t.Errorf("another user can %s %s", did, p)
		}
	}
	if reached == 0 {
		t.Error("the second user could open no path, not even the hooks' program, so this test shows nothing")
	}
	t.Logf("%d paths; another user could open %d of them, as documented", len(paths), reached)
}
