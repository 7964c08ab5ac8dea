package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// checkLoad tests eight VMs, twenty concurrent commands on one config while libvirt restarts, and
// a full state directory.
func checkLoad(t *testing.T, w *world, vm, project string) {
	// Seven more VMs with empty disks; one of them runs.
	xml := virsh(t, "dumpxml", "--inactive", vm)
	for i := 1; i <= 7; i++ {
		name := fmt.Sprintf("%s-%d", vm, i)
		disk := fmt.Sprintf("/var/lib/libvirt/aivm/0-%s.qcow2", name)
		runHost(t, "qemu-img", "create", "-q", "-f", "qcow2", disk, "1G")
		x := xml
		for from, to := range map[string]string{"<name>" + vm + "<": "<name>" + name + "<", "/0-" + vm + ".": "/0-" + name + ".", "/export/0-" + vm: "/export/0-" + name} {
			x = strings.ReplaceAll(x, from, to)
		}
		x = cutBetween(cutBetween(cutBetween(x, "<uuid>", "</uuid>"), "<mac ", "/>"), "<aivms:snapshots", "</aivms:snapshots>")
		f := filepath.Join(w.home, "x.xml")
		write(t, f, strings.Replace(x, "<memory unit='KiB'>1572864<", "<memory unit='KiB'>262144<", 1), 0o600)
		runHost(t, "mkdir", "-p", "/var/lib/aivm/export/0-"+name)
		virsh(t, "-q", "define", f)
		_ = os.Remove(f)
		t.Cleanup(func() {
			_ = exec.Command("virsh", "-c", "qemu:///system", "destroy", name).Run()
			_ = exec.Command("virsh", "-c", "qemu:///system", "undefine", name).Run()
			_ = os.Remove(disk)
			_ = os.Remove("/var/lib/aivm/export/0-" + name)
		})
		config := read(t, filepath.Join(w.home, ".config/aivm/config.toml"))
		write(t, filepath.Join(w.home, ".config/aivm/config.toml"), config+fmt.Sprintf("\n[[vms]]\nname = %q\nnetwork_name = %q\n\n[vms.vm]\nname = %q\n", name, netOf(config), name), 0o600)
	}
	virsh(t, "start", vm+"-1")
	states := func() map[string]string {
		var l struct {
			VMs []struct{ Name, State string }
		}
		if err := json.Unmarshal([]byte(w.must("", "list", "--json").stdout), &l); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, v := range l.VMs {
			out[v.Name] = v.State
		}
		return out
	}
	if s := states(); len(s) != 8 || s[vm] != "running" || s[vm+"-1"] != "running" || s[vm+"-2"] != "off" {
		t.Errorf("%v", s)
	}
	// Twenty concurrent commands on one config; libvirt restarts while they run.
	var wg sync.WaitGroup
	results := make([]result, 20)
	names := make([]string, 20)
	for i := range results {
		dir := filepath.Join(w.home, "many", strconv.Itoa(i))
		args := []string{"attach", ".", "--vm", vm, "--yes"}
		switch i % 5 {
		case 1:
			dir, args = project, []string{"list", "--json"}
		case 2:
			dir, args = project, []string{"status", "--json"}
		case 3:
			dir, args = project, []string{"ssh", ".", "--", "true"}
		}
		write(t, filepath.Join(dir, "f"), "x\n", 0o644)
		names[i] = strings.Join(args, " ")
		wg.Go(func() { results[i] = w.aivm(dir, args...) })
	}
	time.Sleep(1500 * time.Millisecond)
	restartLibvirt(t)
	wg.Wait()
	for i, r := range results {
		// The restart may make a command fail, but with a hint.
		if r.code != 0 && !strings.Contains(r.stderr, "hint") {
			t.Errorf("%s: %+v", names[i], r)
		}
		if i%5 == 0 || i%5 == 4 {
			dir := filepath.Join(w.home, "many", strconv.Itoa(i))
			if r.code != 0 {
				w.must(dir, "attach", ".", "--vm", vm, "--yes")
			}
			if got := w.guest(vm, "cat "+dir+"/f"); got != "x" {
				t.Errorf("%s in the guest: %q", dir, got)
			}
		}
	}
	if out := w.must("", "list", "--section", "folders").stdout; strings.Count(out, "guest_dst="+w.home+"/many/") != 8 {
		t.Errorf("attachments are missing in the config:\n%s", out)
	}
	for i := 1; i <= 7; i++ {
		w.must("", "vm", "delete", fmt.Sprintf("%s-%d", vm, i), "--yes")
	}
	if s := states(); len(s) != 1 || s[vm] != "running" {
		t.Errorf("%v", s)
	}
	checkNoRoom(t, w, vm)
}

// netOf returns the first network_name in a config.
func netOf(config string) string {
	_, after, _ := strings.Cut(config, "network_name = \"")
	name, _, _ := strings.Cut(after, "\"")
	return name
}

// cutBetween removes the first part of s that begins with from and ends with to.
func cutBetween(s, from, to string) string {
	i := strings.Index(s, from)
	if i < 0 {
		return s
	}
	j := strings.Index(s[i:], to)
	return s[:i] + s[i+j+len(to):]
}

// restartLibvirt restarts libvirtd, by systemd if systemd runs it. VMs keep running.
func restartLibvirt(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile("/run/libvirtd.pid")
	pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || perr != nil {
		t.Fatalf("%v %v", err, perr)
	}
	if exec.Command("systemctl", "is-active", "--quiet", "libvirtd").Run() == nil {
		runHost(t, "systemctl", "restart", "libvirtd")
		return
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if syscall.Kill(pid, 0) != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	runHost(t, "libvirtd", "-d")
}

// checkNoRoom runs vm create with a full state directory: it fails with a hint and leaves no VM.
func checkNoRoom(t *testing.T, w *world, vm string) {
	state := filepath.Join(w.home, "full")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	runHost(t, "mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", state)
	t.Cleanup(func() { _ = exec.Command("umount", "-q", state).Run() })
	runHost(t, "sh", "-c", "head -c 60000 /dev/zero >"+state+"/filler || true")
	env := []string{"XDG_STATE_HOME=" + state}
	r := w.run("", nil, env, filepath.Join(bin, "aivm"), "vm", "create", vm+"-full", "--yes")
	if r.code != 2 || !strings.Contains(r.stderr, "df -h") {
		t.Errorf("a full disk: %+v", r)
	}
	if strings.Contains(virsh(t, "list", "--all", "--name"), vm+"-full") {
		t.Error("vm create left a VM whose keys could not be saved")
	}
	runHost(t, "umount", state)
	_ = os.Remove(state)
}
