package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// checkPrepare makes an image of the VM, after a run that is killed while the copy is booted, and
// creates a VM from the image. The clone has the VM's programs and files but its own identity: no
// keys, logs or machine ID of the VM.
func checkPrepare(t *testing.T, w *world, vm string) {
	const name, clone = "e2e-tools", "e2e-clone"
	identity := `cat /etc/machine-id; sudo -n cat /etc/ssh/ssh_host_ed25519_key | sed -n 4p; cat ~/.ssh/authorized_keys; hostname`
	before := strings.Split(w.guest(vm, identity), "\n")
	secret := before[1] // a line of the private host key
	w.guest(vm, `printf '#!/bin/sh\necho tool\n' | sudo -n tee /usr/local/bin/e2e-tool >/dev/null; sudo -n chmod 755 /usr/local/bin/e2e-tool
		echo E2E-LOG-MARK | sudo -n tee /var/log/e2e.log >/dev/null; echo kept >~/in-the-home; sync`)
	w.must("", "vm", "down", vm)
	disk := "/var/lib/libvirt/aivm/0-" + vm + ".qcow2"
	sum := runHost(t, "sha256sum", disk)
	removeAll := func() {
		w.aivm("", "vm", "delete", clone, "--yes")
		w.aivm("", "image", "remove", name, "--yes")
	}
	removeAll() // of an earlier, killed run
	t.Cleanup(removeAll)

	if r := w.aivm("", "vm", "prepare", vm, "--as", "ubuntu-24.04", "--yes"); r.code != 1 {
		t.Errorf("--as with a name of the catalogue: %+v", r)
	}
	if r := w.aivm("", "vm", "prepare", vm, "--as", name); r.code != 3 {
		t.Errorf("without approval: %+v", r)
	}
	if r := w.run("", nil, []string{"AIVM_KILL_AT=copy.boot:after"}, filepath.Join(bin, "aivm-faulty"), "vm", "prepare", vm, "--as", name, "--yes"); r.code != -1 {
		t.Fatalf("not killed at copy.boot:after: %+v", r)
	}
	if s := strings.TrimSpace(virsh(t, "domstate", vm+"-prepare")); s != "running" {
		t.Fatalf("the copy is %s", s)
	}
	r := w.must("", "vm", "prepare", vm, "--as", name, "--yes", "--json")
	t.Logf("vm prepare: %.1f s", r.took.Seconds())
	var made struct {
		SHA256 string
		Size   int64
	}
	if err := json.Unmarshal([]byte(r.stdout), &made); err != nil || made.Size == 0 {
		t.Fatalf("%v: %+v", err, r)
	}
	if now := runHost(t, "sha256sum", disk); now != sum {
		t.Error("vm prepare changed the VM's own disk")
	}
	if leftover, _ := filepath.Glob("/var/lib/libvirt/aivm/*prepare*"); leftover != nil {
		t.Errorf("leftovers in the pool: %v", leftover)
	}
	if leftover, _ := filepath.Glob(filepath.Join(cacheHome, "aivm/images/.prepare-*")); leftover != nil {
		t.Errorf("leftovers in the cache: %v", leftover)
	}
	img := filepath.Join(cacheHome, "aivm/images", made.SHA256+".qcow2")
	for _, text := range []string{secret, "E2E-LOG-MARK"} {
		// grep can find it: the image is not compressed. Blocks of deleted files were discarded.
		if err := exec.Command("grep", "-qaF", "--", text, img).Run(); err == nil {
			t.Errorf("%.12s... of the VM is in the image", text)
		}
	}
	if r := w.aivm("", "vm", "prepare", vm, "--as", name, "--yes"); r.code != 2 || !strings.Contains(r.stderr, "--replace") {
		t.Errorf("--as with a name in use: %+v", r)
	}

	r = w.must("", "vm", "create", clone, "--image", name, "--yes", "--json")
	t.Logf("a VM of the image is usable after %.1f s: %s", r.took.Seconds(), strings.TrimSpace(r.stdout))
	after := strings.Split(w.guest(clone, identity), "\n")
	if len(after) != len(before) || after[0] == before[0] || len(after[0]) != 32 || after[1] == before[1] || after[len(after)-1] != clone {
		t.Errorf("identity of the clone: %q, of the VM: %q", after, before)
	}
	for what, line := range map[string]string{
		"what was installed": `[ "$(e2e-tool)" = tool ] && [ "$(cat ~/in-the-home)" = kept ]`,
		// The pattern does not match itself, because sudo logs the command line.
		"the log":           `! sudo -n grep -rq 'E2E-LOG-MAR[K]' /var/log`,
		"user and sudo":     `[ "$(id -u):$(id -un)" = 1000:agent ] && sudo -n true`,
		"one host key":      `[ "$(ls /etc/ssh/ssh_host_*_key)" = /etc/ssh/ssh_host_ed25519_key ]`,
		"no cloud-init":     `[ -e /etc/cloud/cloud-init.disabled ] && [ ! -s /etc/aivm-clone ] && [ ! -e /var/lib/cloud/instances ]`,
		"its own name":      `getent hosts ` + clone,
		"no password":       `sudo -n passwd -S agent | grep -q ' L '`,
		"its folders' unit": `! systemctl cat aivm-folders.service >/dev/null 2>&1`,
		"nothing failed":    `! systemctl --failed --no-legend | grep aivm`,
	} {
		if r := w.ssh(nil, clone, line); r.code != 0 {
			t.Errorf("%s: %q in the clone: exit %d %s%s", what, line, r.code, r.stdout, r.stderr)
		}
	}
	if _, err := os.Stat("/var/lib/libvirt/aivm/0-" + clone + ".seed"); !os.IsNotExist(err) {
		t.Errorf("the clone's seed is still there: %v", err)
	}
	if r := w.aivm("", "image", "remove", name, "--yes"); r.code != 2 || !strings.Contains(r.stderr, clone) {
		t.Errorf("image remove of an image in use: %+v", r)
	}
	w.must("", "vm", "delete", clone, "--yes")
	w.must("", "image", "remove", name, "--yes")
	if leftover, _ := filepath.Glob("/var/lib/libvirt/aivm/base-" + made.SHA256[:32] + "*"); leftover != nil {
		t.Errorf("leftovers in the pool: %v", leftover)
	}
}
