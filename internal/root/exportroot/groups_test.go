package exportroot_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/hookrun"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// The guest's user can do to files of the owner's other groups what the owner can do on the
// host, and a group that the owner is not in cannot be used by guest root either.
func TestGroupsOfTheOwner(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	vm := roottest.NewReceiver(t)
	const project, guests = 5555, 1000
	for name, dir := range fileSystems(t, work) {
		src := roottest.Folder(t, filepath.Join(dir, "p"), roottest.Owner, 0o755)
		for _, g := range []string{"5555", "1000", "5556"} {
			roottest.Sh(t, "cd "+src+" && mkdir d"+g+" && touch f"+g+" d"+g+"/in && chown -R 4321:"+g+" ?"+g+" && chmod 664 f"+g+" && chmod 2775 d"+g)
		}
		b := roottest.BindOf(t, src, "g-"+name)
		b.Groups = []int{guests, project}
		roottest.Do(t, b)
		in := filepath.Join(rootfile.ExportRoot(roottest.Key), b.Token)
		vm.OK("mount -o remount,bind,rw " + filepath.Dir(in) + " && chmod 755 " + filepath.Dir(filepath.Dir(in)) + " " + filepath.Dir(in))
		agent := "setpriv --reuid 1000 --regid 1000 --groups 5555,4321 sh -ec "
		if got := vm.OK("stat -c %u:%g:%a " + in + "/f5555 " + in + "/f1000 " + in + "/d5555"); got != "1000:5555:664\n1000:4321:664\n1000:5555:2775" {
			t.Errorf("%s: the guest sees %q", name, got)
		}
		for _, g := range []string{"5555", "1000"} {
			vm.OK(agent + "'cd " + in + " && echo x >>f" + g + " && mv f" + g + " d" + g + "/ && chmod 600 d" + g + "/f" + g + " && chmod 2770 d" + g + " && mkdir d" + g + "/sub && echo y >d" + g + "/new && rm d" + g + "/in'")
		}
		for f, want := range map[string]int{"d5555/new": project, "d5555/sub": project, "d5555/f5555": project, "d1000/new": guests} {
			var st unix.Stat_t
			roottest.Must(t, unix.Lstat(filepath.Join(src, f), &st))
			if int(st.Uid) != roottest.Owner || int(st.Gid) != want {
				t.Errorf("%s: %s belongs to %d:%d on the host, want group %d", name, f, st.Uid, st.Gid, want)
			}
		}
		var st unix.Stat_t
		if roottest.Must(t, unix.Stat(filepath.Join(src, "d5555"), &st)); st.Mode&0o7777 != 0o2770 {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
		// Guest root gets neither the group that is not mapped nor root's.
		for _, try := range []string{"echo x >>f5556", "rm -f d5556/in", "touch h && chgrp 5556 h", "touch h && chown 4321 h", "setpriv --regid 5556 --clear-groups touch h2"} {
			if out, code := vm.Run("sh -ec 'cd " + in + " && " + try + "'"); code == 0 {
				t.Errorf("%s: guest root may %s: %s", name, try, out)
			}
		}
	}
}

// A changed list of groups takes effect once nothing uses the mount, and the manifest has the
// groups of the mount.
func TestGroupsOfAMountInUse(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	src := roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755)
	b := roottest.BindOf(t, src, "p")
	roottest.Do(t, b)
	in := filepath.Join(rootfile.ExportRoot(roottest.Key), "p")
	first := roottest.One(t, in)
	b.Groups = []int{5555}
	held, err := os.Open(in)
	roottest.Must(t, err)
	recorded := func() []int {
		t.Helper()
		m, err := manifest.ReadVM(roottest.Key)
		if roottest.Must(t, err); len(m.Folders) != 1 {
			t.Fatalf("%+v", m)
		}
		return m.Folders[0].Groups
	}
	roottest.Do(t, b)
	if m := roottest.One(t, in); m.ID != first.ID || len(recorded()) != 0 {
		t.Errorf("a mount in use was replaced, or its groups are recorded as %v", recorded())
	}
	held.Close()
	roottest.Do(t, b)
	second := roottest.One(t, in)
	if second.ID == first.ID || !slices.Equal(recorded(), b.Groups) {
		t.Errorf("the groups are %v", recorded())
	}
	roottest.Do(t, b)
	if m := roottest.One(t, in); m.ID != second.ID {
		t.Error("mounted again although nothing changed")
	}
}

// The hook leaves out a group that the user is not in any more.
func TestHookKeepsPresentGroups(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	passwd, group := filepath.Join(work, "passwd"), filepath.Join(work, "group")
	roottest.Must(t, os.WriteFile(passwd, []byte("root:x:0:0::/root:/bin/sh\np:x:4321:4321::/:/bin/sh\n"), 0o644))
	roottest.Must(t, os.WriteFile(group, []byte("root:x:0:\nin:x:5555:p\nout:x:5556:\n"), 0o644))
	for _, f := range []string{passwd, group} {
		roottest.Must(t, unix.Mount(f, "/etc/"+filepath.Base(f), "", unix.MS_BIND, ""))
	}
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	src := roottest.Folder(t, filepath.Join(work, "p"), roottest.Owner, 0o755)
	b := roottest.BindOf(t, src, "p")
	b.Groups = []int{5555, 5556, 5557}
	roottest.Do(t, b)
	in := filepath.Join(rootfile.ExportRoot(roottest.Key), "p")
	roottest.Must(t, unix.Unmount(in, 0))
	for _, g := range []string{"5555", "5556", "5557"} {
		roottest.Sh(t, "touch "+src+"/f"+g+" && chgrp "+g+" "+src+"/f"+g)
	}
	roottest.Must(t, hookrun.Run(t.Context(), hookrun.LockLimit, []string{"qemu", "a", "prepare", "begin", "-"},
		strings.NewReader(`<domain><name>a</name><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/></metadata></domain>`), io.Discard))
	out, err := exec.Command("stat", "-c", "%g", in+"/f5555", in+"/f5556", in+"/f5557").Output()
	if got := strings.Fields(string(out)); err != nil || !slices.Equal(got, []string{"5555", "65534", "5557"}) {
		t.Errorf("groups through the mount: %v %v", got, err)
	}
}
