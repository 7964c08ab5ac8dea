package clones

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/test/hints"
)

// TestRemoveCommand runs the command that deletes a clone, as the guest's shell gets it: it deletes the
// clone, and nothing of what is mounted in it or at its path.
func TestRemoveCommand(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	w := looptest.New(t)
	target := &target.Target{Name: "t", Store: &config.Store{}}
	clone := filepath.Join(work, "a 'clone' & $(more)")
	command, in := For(w.Loop).RemoveCommand(target, share.Attachment{GuestDst: clone})
	commands, err := hints.Split(command)
	if err != nil || in != "" || len(commands) != 1 || len(commands[0]) != 5 || !slices.Equal(commands[0][:4], []string{"ssh", "-F", w.SSH.ConfPath("t"), "t"}) {
		t.Fatalf("%q %q: %q %v", command, in, commands, err)
	}
	line := commands[0][4]
	put := func(path string) {
		t.Helper()
		roottest.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		roottest.Must(t, os.WriteFile(path, nil, 0o644))
	}
	run := func() { _ = exec.Command("sh", "-c", line).Run() }
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	// In a guest, a folder of this machine is on another device than the clone.
	folder := filepath.Join(work, "folder")
	roottest.Must(t, os.Mkdir(folder, 0o755))
	roottest.Must(t, unix.Mount("tmpfs", folder, "tmpfs", 0, ""))
	put(folder + "/mine")

	// A folder is mounted in the clone.
	put(clone + "/.git/HEAD")
	put(clone + "/.hidden")
	roottest.Must(t, os.Mkdir(clone+"/in", 0o755))
	roottest.Must(t, unix.Mount(folder, clone+"/in", "", unix.MS_BIND, ""))
	run()
	if exists(clone+"/.git") || exists(clone+"/.hidden") || !exists(folder+"/mine") {
		t.Error("the clone is still there, or files of the folder in it are gone")
	}
	// A folder is mounted at the clone's path.
	roottest.Must(t, unix.Unmount(clone+"/in", 0))
	roottest.Must(t, unix.Mount(folder, clone, "", unix.MS_BIND, ""))
	run()
	if !exists(folder + "/mine") {
		t.Error("files of a folder at the clone's path are gone")
	}
	roottest.Must(t, unix.Unmount(clone, 0))
	run()
	if exists(clone) {
		t.Error("the clone is still there")
	}
	// A link is at the clone's path.
	roottest.Must(t, os.Symlink(folder, clone))
	run()
	if !exists(folder + "/mine") {
		t.Error("files that a link at the clone's path leads to are gone")
	}
}

// There is no command for a clone in a folder that the VM shares.
func TestCloneInAFolder(t *testing.T) {
	w := looptest.New(t)
	store := &config.Store{}
	store.Config.UpsertAttachment(config.Attachment{HostPath: "/host/p", VMName: "t", Mode: "shared-root", Access: "rw", GuestDst: "/p", TypedPath: "/link"})
	store.Config.UpsertAttachment(config.Attachment{HostPath: "/host/git", VMName: "t", Mode: "git", GuestDst: "/home/agent/git"})
	store.Config.UpsertAttachment(config.Attachment{HostPath: "/host/other", VMName: "u", Mode: "shared-root", Access: "rw", GuestDst: "/home"})
	for dst, want := range map[string]string{"/p": "/host/p", "/p/clone": "/host/p", "/link/clone": "/host/p", "/pp": "", "/home/agent/git/x": ""} {
		command, in := For(w.Loop).RemoveCommand(&target.Target{Name: "t", Store: store}, share.Attachment{GuestDst: dst})
		if in != want || (command == "") != (want != "") {
			t.Errorf("%s: %q %q", dst, command, in)
		}
	}
}
