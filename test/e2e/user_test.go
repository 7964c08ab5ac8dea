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

// userWorld makes a throwaway user who may use sudo and is in no group that
// libvirt knows. Everything of it is removed afterwards.
func userWorld(t *testing.T) *world {
	t.Helper()
	home := "/home/" + userName
	sudoers := "/etc/sudoers.d/" + userName
	remove := func() {
		_ = exec.Command("userdel", "-r", userName).Run()
		_ = os.Remove(sudoers)
	}
	remove()
	run2(t, "useradd", "-m", "-u", "4321", "-s", "/bin/bash", userName)
	// As many distributions make it: what is in it must be closed by itself.
	run2(t, "chmod", "0755", home)
	t.Cleanup(remove)
	write(t, sudoers, userName+" ALL=(ALL) NOPASSWD: ALL\n", 0o440)
	// Counts how often sudo is started, and is sudo otherwise.
	write(t, filepath.Join(home, "shim/sudo"), "#!/bin/sh\necho \"$*\" >>"+home+"/sudo.log\nexec /usr/bin/sudo \"$@\"\n", 0o755)
	w := &world{t: t, home: home, user: userName, log: filepath.Join(home, "code.log")}
	w.env = []string{
		"HOME=" + home, "USER=" + userName, "LANG=C.UTF-8", "FAKECODE_LOG=" + w.log,
		"PATH=" + home + "/shim:" + bin + ":/usr/local/bin:/usr/bin:/bin",
	}
	return w
}

func (w *world) sudos() int {
	b, err := os.ReadFile(filepath.Join(w.home, "sudo.log"))
	if err != nil {
		return 0
	}
	_ = os.Remove(filepath.Join(w.home, "sudo.log"))
	return strings.Count(string(b), "\n")
}

// TestUser is a cold run and its aftermath for a user with sudo who is not in
// group libvirt, beside networks and VMs of another user.
func TestUser(t *testing.T) {
	w := userWorld(t)
	image := guestImage(t)
	project := filepath.Join(w.home, "proj")
	if r := w.run("", nil, nil, "sh", "-c", "mkdir -p proj/.hidden && echo mine >proj/f && chmod 700 proj"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	// The person's own key, with a passphrase, works through the agent.
	key := filepath.Join(w.home, ".ssh/id_ed25519")
	if r := w.run("", nil, nil, "sh", "-c", "mkdir -m 700 .ssh; ssh-keygen -q -t ed25519 -N secret -f "+key+
		" && eval $(ssh-agent -a "+w.home+"/agent) >/dev/null && echo $SSH_AGENT_PID >agent.pid"+
		" && printf '#!/bin/sh\necho secret\n' >ask && chmod 700 ask && DISPLAY=x SSH_ASKPASS_REQUIRE=force SSH_ASKPASS=./ask ssh-add -q "+key); r.code != 0 {
		t.Fatalf("the agent: %+v", r)
	}
	t.Cleanup(func() { w.run("", nil, nil, "sh", "-c", "kill $(cat agent.pid)") })
	w.env = append(w.env, "SSH_AUTH_SOCK="+w.home+"/agent")
	if r := w.run("", nil, nil, "sh", "-c", "umask 077; mkdir -p .config/aivm && printf '[defaults.vm]\ncpus = 1\n[defaults.paths]\nssh_identity_file = \"~/.ssh/id_ed25519\"\n' >.config/aivm/config.toml"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	vm := "aivm"
	t.Cleanup(func() { w.aivm("", "vm", "delete", vm, "--yes") })

	if r := w.run(project, nil, nil, "/usr/bin/sudo", filepath.Join(bin, "aivm"), "code", "."); r.code != 2 || !strings.Contains(r.stderr, "without sudo") {
		t.Errorf("started through sudo: %+v", r)
	}
	// The cache is closed to other users.
	img := filepath.Join(w.home, "guest.qcow2")
	run2(t, "install", "-m", "0644", "-o", userName, image, img)
	cold := w.run(project, nil, []string{"FAKECODE_WRITE=from-the-editor"}, filepath.Join(bin, "aivm"), "code", ".", "--yes", "--image", img)
	if cold.code != 0 {
		t.Fatalf("cold: exit %d\n%s", cold.code, cold.stderr)
	}
	checkTiming(t, cold)
	if n := w.sudos(); n != 1 {
		t.Errorf("a cold run started sudo %d times", n)
	}
	if rec := w.opened(); rec.Error != "" || rec.Asked || !rec.Forward || !rec.Folder {
		t.Errorf("the editor: %+v", rec)
	} else {
		vm = rec.Alias
	}
	t.Run("owners and modes", func(t *testing.T) { checkModes(t, w.home, userUID, vm, true) })
	// The plug is pulled at once: the guest comes back as who it was.
	for _, argv := range [][]string{{"vm", "down", vm, "--force"}, {"vm", "up", vm}} {
		if r := w.run(project, nil, nil, append([]string{filepath.Join(bin, "aivm")}, argv...)...); r.code != 0 {
			t.Fatalf("%v: exit %d\n%s", argv, r.code, r.stderr)
		}
		if argv[1] == "down" {
			t.Run("owners and modes while it is off", func(t *testing.T) { checkModes(t, w.home, userUID, vm, false) })
			openAsBefore(t)
		}
	}
	t.Run("owners and modes of an older aivm's files", func(t *testing.T) { checkModes(t, w.home, userUID, vm, true) })
	w.sudos()
	// The plain client, with the user's real configuration.
	ssh := func(line string) result {
		return w.run("", nil, nil, "ssh", "-o", "BatchMode=yes", vm, line)
	}
	if r := ssh("cd " + project + " && cat f && echo x >by-agent && sudo -n touch by-root && stat -c %U f"); r.stdout != "mine\nagent\n" {
		t.Errorf("in the guest: %+v", r)
	}
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
		t.Errorf("the ssh entry does not use the person's key alone: %v\n%s", err, b)
	}
	if _, err := os.Stat("/var/lib/libvirt/aivm/4321-" + vm + ".seed"); !os.IsNotExist(err) {
		t.Errorf("the seed is still there after the first run: %v", err)
	}
	if xml := virsh(t, "dumpxml", vm); !strings.Contains(xml, "owner='4321'") && !strings.Contains(xml, `owner="4321"`) {
		t.Error("the domain lacks the owner's mark")
	}
	warm := w.run(project, nil, []string{"FAKECODE_QUICK=1"}, filepath.Join(bin, "aivm"), "code", ".")
	if n := w.sudos(); warm.code != 0 || n > 1 {
		t.Errorf("a warm run started sudo %d times: %+v", n, warm)
	}
	// Another user's VM is not ours: not to be deleted, not to be taken.
	other := rootWorld(t)
	if r := other.aivm("", "vm", "create", vm, "--yes", "--image", image); r.code != 2 || !strings.Contains(r.stderr, "belongs to another user") {
		t.Errorf("root takes the user's VM: %+v", r)
	}
	if r := other.aivm("", "vm", "delete", vm, "--yes"); r.code != 2 {
		t.Errorf("root deletes the user's VM: %+v", r)
	}
	w.must("", "vm", "delete", vm, "--yes")
	if n := w.sudos(); n != 1 {
		t.Errorf("delete started sudo %d times", n)
	}
	if out := run2(t, "sh", "-c", "virsh -c qemu:///system list --all --name; cat /proc/self/mountinfo; ls /var/lib/libvirt/aivm /var/lib/aivm/export"); strings.Contains(out, "4321-") {
		t.Errorf("something is left:\n%s", out)
	}
}
