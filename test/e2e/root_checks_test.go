package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// checkAttach attaches a folder below /root, and a read-only folder. outer is the test whose cleanup
// removes the folder below /root.
func checkAttach(t, outer *testing.T, w *world, vm string) {
	// In the guest, the user agent may not enter /root; attach must make the path accessible.
	dir := filepath.Join("/root", fmt.Sprintf("aivm-e2e-%d", os.Getpid()), "deep", "er")
	write(t, filepath.Join(dir, "f"), "deep\n", 0o600)
	outer.Cleanup(func() {
		w.aivm("", "detach", dir)
		_ = os.Remove(filepath.Join(dir, "f"))
		for d := dir; d != "/root"; d = filepath.Dir(d) {
			_ = os.Remove(d)
		}
	})
	r := w.must(dir, "attach", ".", "--yes")
	if !strings.Contains(r.stdout, "Mounted in running VM at "+dir) {
		t.Errorf("%+v", r)
	}
	if got := w.guest(vm, "cat "+dir+"/f"); got != "deep" {
		t.Errorf("the guest reads %q", got)
	}
	if r := w.aivm(dir, "attach", ".", "--access", "ro"); r.code != 2 || !strings.Contains(r.stderr, "aivm detach") {
		t.Errorf("attach with another --access: %+v", r)
	}
	ro := filepath.Join(w.home, "ro")
	write(t, filepath.Join(ro, "f"), "only to read\n", 0o644)
	w.must(ro, "attach", ".", "--access", "ro", "--guest-dst", "/srv/ro", "--yes")
	if r := w.ssh(nil, vm, "cat /srv/ro/f && sudo -n mount -o remount,rw /srv/ro; sudo -n touch /srv/ro/x"); r.code == 0 || !strings.Contains(r.stdout, "only to read") {
		t.Errorf("guest root can write to a read-only folder: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(ro, "x")); !os.IsNotExist(err) {
		t.Error("the guest wrote into a read-only share")
	}
}

func checkFacts(t *testing.T, w *world, vm, project string) {
	var l struct {
		Schema  int
		VMs     []struct{ Name, State, Address string }
		Folders []struct {
			HostPath string `json:"host_path"`
			State    string
		}
	}
	if err := json.Unmarshal([]byte(w.must("", "list", "--json").stdout), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.VMs) != 1 || l.VMs[0].State != "running" || len(l.Folders) != 3 || l.Folders[0].State != "ok" {
		t.Errorf("%+v", l)
	}
	var st struct {
		Checks      []struct{ ID, State string }
		Done, Total int
		Wall        struct{ Writable []string }
	}
	if err := json.Unmarshal([]byte(w.must(project, "status", "--json").stdout), &st); err != nil {
		t.Fatal(err)
	}
	for _, c := range st.Checks {
		// The guest created a repository, which contains host-executed files, and a setuid file in the
		// folder. Status must name both.
		if want := map[bool]string{true: "bad", false: "ok"}[c.ID == "executed" || c.ID == "special"]; c.State != want {
			t.Errorf("%s is %s, want %s", c.ID, c.State, want)
		}
	}
	if st.Done != st.Total-2 || st.Total < 7 || len(st.Wall.Writable) != 2 {
		t.Errorf("%+v", st)
	}
	if ip := strings.TrimSpace(w.must(project, "vm", "wait-ip").stdout); ip != l.VMs[0].Address {
		t.Errorf("wait-ip: %s", ip)
	}
	if r := w.must(project, "vm", "ssh_config"); !strings.Contains(r.stdout, "Host "+vm) {
		t.Errorf("%+v", r)
	}
}

// checkConcurrent attaches three folders concurrently, and runs `ssh` in one of them at the same time.
// All must succeed, and all folders must be recorded.
func checkConcurrent(t *testing.T, w *world) {
	var wg sync.WaitGroup
	dirs := []string{"one", "two", "three", "one"}
	results := make([]result, len(dirs))
	for i, d := range dirs {
		dir := filepath.Join(w.home, "at-once", d)
		write(t, filepath.Join(dir, "f"), d+"\n", 0o644)
		args := []string{"attach", ".", "--yes"}
		if i == 3 {
			args = []string{"ssh", ".", "--yes", "--", "cat", "f"}
		}
		wg.Go(func() { results[i] = w.aivm(dir, args...) })
	}
	wg.Wait()
	for i, r := range results {
		if r.code != 0 {
			t.Errorf("%s: %+v", dirs[i], r)
		}
	}
	if results[3].stdout != "one\n" {
		t.Errorf("%+v", results[3])
	}
	for _, d := range dirs {
		if out := w.must("", "list", "--section", "folders"); !strings.Contains(out.stdout, "/at-once/"+d+" ") {
			t.Errorf("folder %s is not recorded:\n%s", d, out.stdout)
		}
	}
}
