package share

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
)

// etc replaces /etc by a copy with these users and groups.
func etc(t *testing.T, work, passwd, group string) {
	t.Helper()
	dir := filepath.Join(work, "etc")
	must(t, os.MkdirAll(filepath.Join(dir, "systemd/system"), 0o755))
	for name, text := range map[string]string{"passwd": passwd, "group": group, "login.defs": "GID_MIN 1000\nGID_MAX 60000\n", "nsswitch.conf": "passwd: files\ngroup: files\n"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	must(t, unix.Mount(dir, "/etc", "", unix.MS_BIND, ""))
}

// The guest's user becomes a member of the groups that are mapped, once, under a name that
// takes nothing from the guest.
func TestGuestJoinsGroups(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	etc(t, work, "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n", "root:x:0:\nagent:x:1000:\ntaken:x:7000:\nvideo:x:44:other\n")
	g := newGuest(t)
	a := g.token("/h/a", filepath.Join(work, "g/a"))
	folder := g.host.Folders["/h/a"]
	folder.GID, folder.Groups = 4321, []int{44, 998, 1000, 5555, 6001, 6002}
	g.host.Folders["/h/a"] = folder
	g.host.GroupNames = map[int]string{998: "docker", 1000: "me", 5555: "project", 6001: "taken", 6002: "a b;reboot"}
	g.mounts(1, a)
	var got []string
	b, err := os.ReadFile("/etc/group")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		got = append(got, strings.TrimSpace(line))
	}
	want := []string{"root:x:0:", "agent:x:1000:", "taken:x:7000:", "video:x:44:other,agent", "aivm-998:x:998:agent", "aivm-4321:x:4321:agent", "project:x:5555:agent", "aivm-6001:x:6001:agent", "aivm-6002:x:6002:agent"}
	if !slices.Equal(got, want) {
		t.Errorf("groups:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	g.down(a)
	if out := g.boot(); out != "" {
		t.Errorf("the boot script prints %q", out)
	}
	g.mounts(0, a)
}

// The database decides which groups are mapped, not the session; nobody gives the guest a
// group that he is not in himself.
func TestGroupsOfFolders(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	etc(t, work, "root:x:0:0::/root:/bin/sh\none:x:4321:4321::/:/bin/sh\ntwo:x:4322:4321::/:/bin/sh\n", "root:x:0:one\none:x:4321:\nboth:x:5555:one,two\nonly:x:5556:one\nnogroup:x:65534:one\n")
	l := groupLookup{}
	for _, c := range []struct {
		uid, gid int
		want     []int
	}{{4321, 4321, []int{5555, 5556}}, {4321, 5555, []int{4321, 5556}}, {4322, 4321, []int{5555}}, {0, 4321, nil}, {9999, 9999, nil}} {
		if got := l.ofOwner(c.uid, c.gid); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v", c, got)
		}
	}
	// As user two in a folder of user one.
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command("setpriv", "--reuid", "4322", "--regid", "4321", "--clear-groups", self, "-test.run=^TestGroupsOfAnotherUser$", "-test.v")
	cmd.Env, cmd.Dir = append(os.Environ(), "AIVM_SHARE_TEST_TWO=1"), "/"
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestGroupsOfAnotherUser") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestGroupsOfAnotherUser is run by TestGroupsOfFolders, as another user than the folder's.
func TestGroupsOfAnotherUser(t *testing.T) {
	if os.Getenv("AIVM_SHARE_TEST_TWO") == "" {
		return
	}
	if got := (groupLookup{}).ofOwner(4321, 4321); !slices.Equal(got, []int{5555}) {
		t.Errorf("got %v, want only the group of both", got)
	}
}

// The mount of a running VM is not replaced because of its groups; that of a VM that is off is,
// once.
func TestChangedGroupsArePlanned(t *testing.T) {
	f := hostP()
	f.Export = []mountinfo.Mount{{ID: 9, Options: []string{"ro"}, Peers: []string{"shared:1"}}}
	f.Tokens[tokP][0].Parent, f.Tokens[tokP][0].Dev, f.Tokens[tokP][0].Root = 9, "8:1", "/srv/my p"
	folder := f.Folders[attP.HostPath]
	folder.MountDev, folder.MountRoot, folder.Groups = "8:1", "/srv/my p", []int{5555}
	f.Folders[attP.HostPath] = folder
	for _, c := range []struct {
		what   string
		runs   bool
		noted  map[string]root.Bind
		bind   bool
		groups []int
	}{
		{"recorded", false, map[string]root.Bind{tokP: {Src: attP.HostPath, Groups: []int{5555}}}, false, nil},
		{"recorded by an older aivm", false, map[string]root.Bind{tokP: {Src: attP.HostPath}}, true, []int{5555}},
		{"recorded by an older aivm, running", true, map[string]root.Bind{tokP: {Src: attP.HostPath}}, false, nil},
		{"left, running", true, map[string]root.Bind{tokP: {Src: attP.HostPath, Groups: []int{5555, 5556}}}, false, nil},
		{"access differs, running", true, map[string]root.Bind{tokP: {Src: attP.HostPath, RO: true, Groups: []int{5556}}}, true, []int{5556}},
		{"no manifest", false, nil, false, nil},
	} {
		f.Noted = c.noted
		as, err := PlanHost(f.WithRunning(c.runs), "0-a", []Attachment{attP}, nil)
		if err != nil || len(as) > 0 != c.bind {
			t.Errorf("%s: %v %v", c.what, as, err)
			continue
		}
		if c.bind && !slices.Equal(as[0].Root.(root.Bind).Groups, c.groups) {
			t.Errorf("%s: %+v", c.what, as[0].Root)
		}
	}
}
