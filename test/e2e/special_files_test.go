package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// checkSpecial creates device nodes and setuid files in a shared folder, as root and as the user of
// the guest. The host must not get device nodes where libvirt's hook could forbid them, status must
// name all of them, and setuid files must not belong to root.
func checkSpecial(t *testing.T, w *world, vm, project string, ssh func(string) result) {
	t.Helper()
	key := "0-" + vm
	if w.user != "" {
		key = strings.TrimSpace(runHost(t, "id", "-u", w.user)) + "-" + vm
	}
	guard, err := os.ReadFile("/var/lib/aivm/manifest/devices-" + key)
	if err != nil {
		t.Errorf("libvirt's hook wrote no devices file when the VM started: %v", err)
	}
	t.Logf("the hook wrote: %s", strings.Join(strings.Fields(string(guard)), " "))
	var g struct{ Open string }
	if err := json.Unmarshal(guard, &g); err != nil {
		t.Errorf("%v", err)
	}
	r := ssh("cd '" + project + "' && mkdir deep && sudo -n mknod deep/disk b 8 0; sudo -n mknod null c 1 3; sudo -n mkfifo fifo && echo fifo;" +
		" cp /bin/true setid-user && chmod 4755 setid-user; sudo -n cp /bin/true setid-root && sudo -n chmod 6755 setid-root; ls -l setid-user setid-root")
	if !strings.Contains(r.stdout, "fifo") || !strings.Contains(r.stdout, "rws") {
		t.Errorf("in the guest: %+v", r)
	}
	made := 0
	for _, n := range []string{"deep/disk", "null"} {
		if st, err := os.Lstat(filepath.Join(project, n)); err == nil {
			made++
			t.Logf("%s: %v", n, st.Mode())
		}
	}
	// If the hook could not use a cgroup, it recorded that, and status names the device nodes.
	if made > 0 && g.Open == "" {
		t.Errorf("the guest's root created %d device nodes in a host folder, although the hook recorded that it cannot", made)
	}
	status := w.must("", "status", "--vm", vm, "--json")
	var st struct {
		Special []struct{ Path, What string }
		Checks  []struct{ ID, State, Detail string }
	}
	if err := json.Unmarshal([]byte(status.stdout), &st); err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, s := range st.Special {
		named = append(named, s.Path+": "+s.What)
	}
	if got := strings.Join(named, ", "); !strings.Contains(got, "setid-root: setuid and setgid") || !strings.Contains(got, "setid-user: setuid") || len(named) != 2+made {
		t.Errorf("status names: %s", got)
	}
	for _, c := range st.Checks {
		if c.ID == "special" && (c.State != "bad" || (g.Open != "") != strings.Contains(c.Detail, "can create device nodes")) {
			t.Errorf("%+v", c)
		}
	}
	// The owner is nobody or the folder's owner, never root.
	if out, err := exec.Command("stat", "-c", "%u %n", filepath.Join(project, "setid-root"), filepath.Join(project, "setid-user")).Output(); err != nil || strings.HasPrefix(string(out), "0 ") || strings.Contains(string(out), "\n0 ") {
		t.Errorf("setuid files made in the guest belong to: %s %v", out, err)
	}
	ssh("cd '" + project + "' && sudo -n rm -rf deep null fifo setid-user setid-root")
	if r := w.must("", "status", "--vm", vm, "--json"); strings.Contains(r.stdout, `"special":[`) {
		t.Errorf("status still lists special files after they were removed: %s", r.stdout)
	}
}
