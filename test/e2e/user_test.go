package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	userName = "aivm-e2e"
	userUID  = 4321
)

// userWorld creates a temporary user who may use sudo and is not in group libvirt. The cleanup
// removes the user and the home.
func userWorld(t *testing.T) *world {
	t.Helper()
	home := "/home/" + userName
	sudoers := "/etc/sudoers.d/" + userName
	remove := func() {
		_ = exec.Command("userdel", "-r", userName).Run()
		_ = exec.Command("groupdel", groupName).Run()
		_ = os.Remove(sudoers)
	}
	remove()
	runHost(t, "groupadd", "-g", groupGID, groupName)
	runHost(t, "useradd", "-m", "-u", "4321", "-G", groupName, "-s", "/bin/bash", userName)
	// Many distributions create homes with mode 0755, so aivm's files in it must have their own modes.
	runHost(t, "chmod", "0755", home)
	t.Cleanup(remove)
	write(t, sudoers, userName+" ALL=(ALL) NOPASSWD: ALL\n", 0o440)
	// A wrapper that logs each start of sudo.
	write(t, filepath.Join(home, "shim/sudo"), "#!/bin/sh\necho \"$*\" >>"+home+"/sudo.log\nexec /usr/bin/sudo \"$@\"\n", 0o755)
	w := &world{t: t, home: home, user: userName, log: filepath.Join(home, "code.log")}
	w.env = []string{
		"HOME=" + home, "USER=" + userName, "LANG=C.UTF-8", "FAKECODE_LOG=" + w.log,
		"PATH=" + home + "/shim:" + bin + ":/usr/local/bin:/usr/bin:/bin",
	}
	return w
}

// sudos returns how often sudo was started since the last call.
func (w *world) sudos() int {
	b, err := os.ReadFile(filepath.Join(w.home, "sudo.log"))
	if err != nil {
		return 0
	}
	_ = os.Remove(filepath.Join(w.home, "sudo.log"))
	return strings.Count(string(b), "\n")
}

// TestUser tests aivm for a user with sudo who is not in group libvirt: the first `code`, owners and
// modes of files, the number of sudo calls, and VMs of another user.
func TestUser(t *testing.T) {
	w := userWorld(t)
	// Other tests, also those of an earlier, killed run, have folders of the same owner in /tmp.
	earlier := ownedInTemp(userUID)
	image := guestImage(t)
	project := filepath.Join(w.home, "proj")
	if r := w.run("", nil, nil, "sh", "-c", "mkdir -p proj/.hidden && echo mine >proj/f && chmod 700 proj"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	groupFiles(t, project)
	// The user's own SSH key has a passphrase and is in an ssh-agent.
	key := filepath.Join(w.home, ".ssh/id_ed25519")
	if r := w.run("", nil, nil, "sh", "-c", "mkdir -m 700 .ssh; ssh-keygen -q -t ed25519 -N secret -f "+key+
		" && eval $(ssh-agent -a "+w.home+"/agent) >/dev/null && echo $SSH_AGENT_PID >agent.pid"+
		" && printf '#!/bin/sh\necho secret\n' >ask && chmod 700 ask && DISPLAY=x SSH_ASKPASS_REQUIRE=force SSH_ASKPASS=./ask ssh-add -q "+key); r.code != 0 {
		t.Fatalf("ssh-agent: %+v", r)
	}
	t.Cleanup(func() { w.run("", nil, nil, "sh", "-c", "kill $(cat agent.pid)") })
	w.env = append(w.env, "SSH_AUTH_SOCK="+w.home+"/agent")
	if r := w.run("", nil, nil, "sh", "-c", "umask 077; mkdir -p .config/aivm && printf '[defaults.vm]\ncpus = 1\n[defaults.paths]\nssh_identity_file = \"~/.ssh/id_ed25519\"\n' >.config/aivm/config.toml"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	vm := "aivm"
	t.Cleanup(func() { w.aivm("", "vm", "delete", vm, "--yes") })

	if r := w.run(project, nil, nil, "/usr/bin/sudo", filepath.Join(bin, "aivm"), "code", "."); r.code != 2 || !strings.Contains(r.stderr, "was started with sudo: run it without") {
		t.Errorf("aivm started by sudo: %+v", r)
	}
	// The user cannot read the tests' cache, so the image is copied.
	img := filepath.Join(w.home, "guest.qcow2")
	runHost(t, "install", "-m", "0644", "-o", userName, image, img)
	cold := w.run(project, nil, []string{"FAKECODE_WRITE=from-the-editor"}, filepath.Join(bin, "aivm"), "code", ".", "--yes", "--image", img)
	if cold.code != 0 {
		t.Fatalf("the first code: exit %d\n%s", cold.code, cold.stderr)
	}
	if !strings.Contains(cold.stderr, "group 5556 (foreign)") {
		t.Errorf("the first code does not name the file that the VM cannot change:\n%s", cold.stderr)
	}
	checkTiming(t, cold)
	if n := w.sudos(); n != 1 {
		t.Errorf("the first code started sudo %d times, want 1", n)
	}
	if rec := w.opened(); rec.Error != "" || rec.Asked || !rec.Forward || !rec.Folder {
		t.Errorf("the editor: %+v", rec)
	} else {
		vm = rec.Alias
	}
	t.Run("owners and modes", func(t *testing.T) { checkModes(t, w.home, userUID, vm, true, earlier) })
	off := func() {
		w.must("", "vm", "down", vm, "--force", "--yes")
		t.Run("owners and modes while it is off", func(t *testing.T) { checkModes(t, w.home, userUID, vm, false, earlier) })
	}
	if longRun {
		// The VM is powered off immediately after its first boot: the guest must keep its identity.
		off()
		setOldModes(t)
		w.must("", "vm", "up", vm)
		t.Run("owners and modes of an older aivm's files", func(t *testing.T) { checkModes(t, w.home, userUID, vm, true, earlier) })
		w.sudos()
	}
	// The OpenSSH client with the user's real configuration. The guest may still be busy with the end of its
	// first boot.
	ssh := func(line string) result {
		return w.run("", nil, nil, "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=90", vm, line)
	}
	if r := ssh("cd " + project + " && cat f && echo x >by-agent && sudo -n touch by-root && stat -c %U f"); r.stdout != "mine\nagent\n" {
		t.Errorf("in the guest: %+v", r)
	}
	t.Run("files of the owner's groups", func(t *testing.T) { checkGroups(t, w, vm, project, ssh) })
	t.Run("device nodes and setuid files", func(t *testing.T) { checkSpecial(t, w, vm, project, ssh) })
	for name, want := range map[string]uint32{"by-agent": userUID, "by-root": 65534, "from-the-editor": userUID} {
		st, err := os.Stat(filepath.Join(project, name))
		if err != nil {
			t.Error(err)
		} else if got := st.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d on the host, not %d", name, got, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(w.home, ".config/aivm/ssh", vm+".conf")); err != nil || !strings.Contains(string(b), "IdentityFile "+key) || strings.Count(string(b), "IdentityFile ") != 1 {
		t.Errorf("the ssh entry does not use exactly the user's key: %v\n%s", err, b)
	}
	if _, err := os.Stat("/var/lib/libvirt/aivm/4321-" + vm + ".seed"); !os.IsNotExist(err) {
		t.Errorf("the seed still exists after the first run: %v", err)
	}
	if xml := virsh(t, "dumpxml", vm); !strings.Contains(xml, "owner='4321'") && !strings.Contains(xml, `owner="4321"`) {
		t.Error("the domain lacks the owner's mark")
	}
	warm := w.run(project, nil, []string{"FAKECODE_QUICK=1"}, filepath.Join(bin, "aivm"), "code", ".")
	if n := w.sudos(); warm.code != 0 || n > 1 {
		t.Errorf("a repeated code started sudo %d times: %+v", n, warm)
	}
	// Another user can neither use nor delete this VM.
	other := rootWorld(t)
	if r := other.aivm("", "vm", "create", vm, "--yes", "--image", image); r.code != 2 || !strings.Contains(r.stderr, "belongs to another user") {
		t.Errorf("vm create by root with the name of the user's VM: %+v", r)
	}
	if r := other.aivm("", "vm", "delete", vm, "--yes"); r.code != 2 {
		t.Errorf("vm delete by root of the user's VM: %+v", r)
	}
	off()
	w.sudos()
	w.must("", "vm", "delete", vm, "--yes")
	if n := w.sudos(); n != 1 {
		t.Errorf("delete started sudo %d times", n)
	}
	if out := runHost(t, "sh", "-c", "virsh -c qemu:///system list --all --name; cat /proc/self/mountinfo; ls /var/lib/libvirt/aivm /var/lib/aivm/export"); strings.Contains(out, "4321-") {
		t.Errorf("leftovers of the VM:\n%s", out)
	}
}
