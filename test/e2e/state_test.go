//go:build long

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"syscall"
	"testing"
)

// volatileParts match what differs between VMs, processes and runs and is not part of a state.
var volatileParts = []struct{ pattern, name string }{
	{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "UUID"},
	{`52:54:00(:[0-9a-f]{2}){3}`, "MAC"},
	{`AAAA[A-Za-z0-9+/]{30,}=*`, "KEY"},
	{`SHA256:[A-Za-z0-9+/]{40,}`, "PRINT"},
	{`\b192\.168\.\d+\.\d+\b`, "ADDRESS"},
	{`\b20\d\d-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`, "TIME"},
	{`\b(packets|bytes|handle) \d+`, "$1 N"},
	{`"(handle|bytes|packets|index)": ?\d+`, `"$1": N`},
	{`\b[0-9a-f]{12,64}\b`, "HEX"},
	{`\bvnet\d+\b`, "PORT"},
	{`"domain": ?\d+`, `"domain": N`}, // libvirt's number of a VM while it runs
	{`\bqemu-\d+-`, "qemu-N-"},
	{`\bshared:\d+`, "shared"},
	{`(st_ino|ino|inode|dev|device)"?[:=] ?"?\d+`, "$1=N"},
}

var volatileRegexps = func() (rs []*regexp.Regexp) {
	for _, v := range volatileParts {
		rs = append(rs, regexp.MustCompile(v.pattern))
	}
	return rs
}()

// scrub replaces the volatile parts of a text by their names.
func scrub(s string) string {
	for i, r := range volatileRegexps {
		s = r.ReplaceAllString(s, volatileParts[i].name)
	}
	return s
}

// state returns everything that aivm and libvirt keep of a VM, by name: the definition, its network,
// mounts, firewall rules, and files with owners and modes on the host, mounts and files in the guest.
// Volatile parts are scrubbed, so two runs with the same result have the same state.
func state(t *testing.T, w *world, vm, network string) map[string]string {
	t.Helper()
	table := strings.ReplaceAll(network, "-", "_")
	ofVM := func(name string) bool {
		return strings.Contains(name, vm) || strings.Contains(name, network) || strings.Contains(name, table)
	}
	s := map[string]string{}
	s["domain"] = scrub(virsh(t, "dumpxml", "--inactive", vm))
	s["running"] = virsh(t, "domstate", vm)
	s["network"] = scrub(virsh(t, "net-dumpxml", network))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): 4 root, 5 mount point, 6 options, after " - " type
		if f := strings.Fields(line); strings.HasPrefix(f[4], "/var/lib/aivm/") && ofVM(f[4]) {
			lines = append(lines, scrub(strings.Join(f[3:6], " ")))
		}
	}
	sort.Strings(lines)
	s["mounts"] = strings.Join(lines, "\n")
	for _, table := range strings.Split(runHost(t, "nft", "list", "tables"), "\n") {
		if strings.Contains(table, "aivm") && ofVM(table) {
			s["nft "+table] = scrub(runHost(t, append([]string{"nft", "-s", "list"}, strings.Fields(table)...)...))
		}
	}
	for _, top := range []string{".ssh", ".config", ".local"} {
		files(t, s, filepath.Join(w.home, top), func(string) bool { return true })
	}
	for _, top := range []string{"/var/lib/aivm", "/var/lib/libvirt/aivm"} {
		files(t, s, top, ofVM) // these directories also have files of other VMs
	}
	if strings.TrimSpace(s["running"]) == "running" {
		s["guest"] = scrub(w.guest(vm, `grep virtiofs /proc/self/mountinfo | cut -d' ' -f4- | sort
			cd / && sudo -n find home etc/aivm* etc/systemd/system usr/local var/lib/aivm* -xdev \( -name .git -o -name .cache -o -path home/agent/work \) -prune -o ! -name '.bash_history' ! -name .lock ! -name .sudo_as_admin_successful -printf '%p %m %U %G %l\n' 2>/dev/null | sort`))
	}
	return s
}

// files adds to s the files below top whose paths match. It skips mounts, which are users' folders.
func files(t *testing.T, s map[string]string, top string, match func(string) bool) {
	t.Helper()
	_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // missing, or removed while the walk ran
		}
		if d.IsDir() && strings.HasPrefix(p, "/var/lib/aivm/export/") && strings.Count(p, "/") > 5 {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil || !match(p) {
			return nil
		}
		st := info.Sys().(*syscall.Stat_t)
		base := filepath.Base(p)
		if strings.HasSuffix(base, ".prev") || base == "settings.state" || strings.HasPrefix(base, "git-") && strings.HasSuffix(base, ".json") {
			return nil // backups, and caches of the last settings sync and git run
		}
		what := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular() && info.Size() < 64<<10 && !strings.HasSuffix(base, ".log") && !strings.HasSuffix(base, ".lock"):
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), "PRIVATE KEY") {
				b = []byte("a private key")
			}
			what += "\n" + scrub(string(b))
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			what += " -> " + to
		}
		s[scrub(p)] = what
		return nil
	})
}

// same reports an error for each difference between two states.
func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	all := map[string]bool{}
	for k := range got {
		all[k] = true
	}
	for k := range want {
		all[k] = true
	}
	for k := range all {
		a, isA := got[k]
		b, isB := want[k]
		switch {
		case !isA:
			t.Errorf("%s: %s is missing; it exists after an undisturbed run", what, k)
		case !isB:
			t.Errorf("%s: %s exists; it does not after an undisturbed run: %.300s", what, k, a)
		case a != b:
			t.Errorf("%s: %s differs from an undisturbed run's:\n%s", what, k, lineDiff(a, b))
		}
	}
}

// lineDiff returns the lines that only one of two texts has.
func lineDiff(got, want string) string {
	count := map[string]int{}
	for _, l := range strings.Split(want, "\n") {
		count[l]--
	}
	for _, l := range strings.Split(got, "\n") {
		count[l]++
	}
	var out []string
	for l, n := range count {
		switch {
		case n > 0:
			out = append(out, "\tgot:  "+l)
		case n < 0:
			out = append(out, "\twant: "+l)
		}
	}
	sort.Strings(out)
	if len(out) == 0 {
		return "\tonly the order of lines differs"
	}
	return strings.Join(out, "\n")
}
