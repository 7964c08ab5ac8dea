package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// leftovers searches the host for traces of a deleted VM: libvirt objects, mounts, firewall rules,
// bridges, processes, and the names and contents of all files that aivm or libvirt may have written.
// Log files and expiring DHCP leases (*.status) do not count.
func leftovers(t *testing.T, w *world, vm string) {
	t.Helper()
	// The user's default for VM names stays in the config.
	config := filepath.Join(w.home, ".config/aivm/config.toml")
	if b, err := os.ReadFile(config); err == nil {
		write(t, config, strings.Replace(string(b), "name = \""+vm+"\"", "", 1), 0o600)
	}
	noName := func(what, text string) {
		t.Helper()
		for line := range strings.Lines(text) {
			if strings.Contains(line, vm) {
				t.Errorf("%s still contains %s: %s", what, vm, strings.TrimSpace(line))
			}
		}
	}
	v := []string{"virsh", "-c", "qemu:///system"}
	for _, c := range [][]string{
		append(v, "list", "--all"), append(v, "net-list", "--all"), append(v, "pool-list", "--all"), {"cat", "/proc/self/mountinfo"}, {"nft", "list", "ruleset"}, {"ip", "link"},
	} {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		if err != nil && c[0] != "nft" {
			t.Errorf("%v: %v\n%s", c, err, out)
		}
		noName(strings.Join(c, " "), string(out))
	}
	for n := range networks() {
		noName("network "+n, virsh(t, "net-dumpxml", n))
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && filepath.Base(filepath.Dir(p)) != "self" {
			if line := string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})); strings.Contains(line, "guest="+vm+",") || strings.Contains(line, "/0-"+vm) {
				t.Errorf("a process of VM %s still runs: %.200s", vm, line)
			}
		}
	}
	// Skip mounts: they are folders of users.
	for _, top := range []string{"/var/lib/aivm", "/var/lib/libvirt", "/run/libvirt", "/run/aivm", "/etc/libvirt", "/etc/sudoers.d", "/var/cache/aivm", "/tmp", w.home} {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // removed while the walk ran
			}
			if d.IsDir() && (p != w.home && strings.HasPrefix(p, "/tmp/") && !strings.HasPrefix(w.home, p) && !strings.HasPrefix(p, w.home) || strings.Contains(p, "/work/") || strings.HasSuffix(p, "/cache")) {
				return fs.SkipDir // belongs to other tests or users
			}
			if filepath.Dir(p) == "/tmp" && p != w.home && !strings.Contains(filepath.Base(p), "aivm") {
				return nil // not a file of aivm
			}
			if strings.Contains(filepath.Base(p), vm) {
				t.Errorf("leftover file: %s", p)
			}
			if st, err := d.Info(); err == nil && st.Mode().IsRegular() && st.Size() < 1<<20 && !strings.HasSuffix(p, ".log") && !strings.HasSuffix(p, ".status") && !strings.HasSuffix(p, ".prev") && filepath.Base(p) != "ssh_config.before-aivm" {
				if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(vm)) && !strings.Contains(p, "old-project") {
					t.Errorf("%s still contains the name of VM %s", p, vm)
				}
			}
			return nil
		})
	}
}
