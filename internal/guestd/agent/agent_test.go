package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

func TestParameter(t *testing.T) {
	line := "console=ttyS0 aivm.root=UUID=1-2 quiet aivm.rootx=3\n"
	for name, want := range map[string]string{"aivm.root": "UUID=1-2", "quiet": "", "aivm.rootx": "3", "aivm": ""} {
		if got := parameter(line, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// disk is a disk with an ext4 file system or a partition table.
func disk(fill func([]byte)) *bytes.Reader {
	b := make([]byte, 64<<10)
	fill(b)
	return bytes.NewReader(b)
}

func TestMatchDisk(t *testing.T) {
	ext4 := disk(func(b []byte) {
		binary.LittleEndian.PutUint16(b[1024+0x38:], 0xEF53)
		copy(b[1024+0x68:], []byte{0x2d, 9, 0x2b, 0xcb, 0x13, 0xa1, 0x42, 0x43, 0xa0, 0x22, 0x20, 0x15, 0xd1, 0xac, 0xe5, 0xcc})
		copy(b[1024+0x78:], "root")
	})
	gpt := disk(func(b []byte) {
		copy(b[512:], "EFI PART")
		binary.LittleEndian.PutUint64(b[512+72:], 2)
		binary.LittleEndian.PutUint32(b[512+80:], 128)
		binary.LittleEndian.PutUint32(b[512+84:], 128)
		copy(b[1024+128+16:], []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	})
	// A table of a hostile disk: entries without end, of no size, far away.
	hostile := disk(func(b []byte) {
		copy(b[512:], "EFI PART")
		for i := 512 + 72; i < 512+88; i++ {
			b[i] = 0xff
		}
	})
	for _, test := range []struct {
		disk       *bytes.Reader
		key, value string
		partition  int
		found      bool
	}{
		{ext4, "UUID", "2d092bcb-13a1-4243-a022-2015d1ace5cc", 0, true},
		{ext4, "UUID", "2d092bcb-13a1-4243-a022-2015d1ace5cd", 0, false},
		{ext4, "LABEL", "root", 0, true},
		{gpt, "PARTUUID", "04030201-0605-0807-090a-0b0c0d0e0f10", 2, true},
		{gpt, "PARTUUID", "04030201-0605-0807-090a-0b0c0d0e0f11", 0, false},
		{gpt, "UUID", "04030201-0605-0807-090a-0b0c0d0e0f10", 0, false},
		{hostile, "PARTUUID", "ffffffff-ffff-ffff-ffff-ffffffffffff", 0, false},
		{bytes.NewReader(nil), "UUID", "x", 0, false},
		{bytes.NewReader(nil), "PARTUUID", "x", 0, false},
	} {
		if partition, found := matchDisk(test.disk, test.key, test.value); partition != test.partition || found != test.found {
			t.Errorf("%s=%s: %d, %v", test.key, test.value, partition, found)
		}
	}
	if _, err := findRoot("sda1"); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a root that is not named: %v", err)
	}
}

// systemWith makes a root directory with files.
func systemWith(t *testing.T, files map[string]string) *guest {
	t.Helper()
	g := &guest{root: t.TempDir()}
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(g.root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(g.root+path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func (g *guest) content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(g.root + path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestSetUser(t *testing.T) {
	g := systemWith(t, map[string]string{
		"/etc/passwd":   "root:x:0:0:root:/root:/bin/bash\nuser:x:1:1::/old:/bin/sh\nother:x:4410:4410::/:/bin/sh\n",
		"/etc/group":    "root:x:0:\nuser:x:1:\n",
		"/etc/skel/.rc": "rc", "/bin/bash": "",
	})
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 4410, 4411
	}
	r := wire.SetupRequest{UID: uid, GID: gid, User: "user", Home: "/home/user"}
	for range 2 { // the second time changes nothing
		if err := g.setUser(r); err != nil {
			t.Fatal(err)
		}
		passwd := strings.Split(g.content(t, "/etc/passwd"), "\n")
		if !strings.HasPrefix(passwd[0], "user:*:") || !strings.HasSuffix(passwd[0], "::/home/user:/bin/bash") || len(passwd) != 4 || passwd[1][:5] != "root:" {
			t.Errorf("passwd is %q", passwd)
		}
		if group := strings.Split(g.content(t, "/etc/group"), "\n"); len(group) != 3 || !strings.HasPrefix(group[0], "user:*:") {
			t.Errorf("group is %q", group)
		}
	}
	if g.content(t, "/home/user/.rc") != "rc" || !strings.HasPrefix(g.content(t, "/etc/sudoers.d/aivm"), "user ALL=") {
		t.Error("the home directory or sudo's rule is missing")
	}
	var info unix.Stat_t
	if err := unix.Stat(g.root+"/home/user/.rc", &info); err != nil || int(info.Uid) != uid {
		t.Errorf("the file belongs to %d (%v)", info.Uid, err)
	}
}

func TestIdentity(t *testing.T) {
	g := systemWith(t, map[string]string{
		"/etc/ssh/ssh_host_rsa_key": "old", "/etc/ssh/ssh_host_rsa_key.pub": "old", "/usr/sbin/sshd": "",
		"/var/lib/dbus/machine-id": "old", "/var/lib/systemd/random-seed": "old",
	})
	r := wire.SetupRequest{MachineID: strings.Repeat("a", 32), HostKey: "key", HostKeyPub: "pub"}
	if err := errors.Join(g.setMachineID(r), g.setHostKey(r)); err != nil {
		t.Fatal(err)
	}
	if keys, _ := filepath.Glob(g.root + "/etc/ssh/*"); len(keys) != 2 || g.content(t, "/etc/ssh/ssh_host_ed25519_key") != "key" {
		t.Errorf("the keys are %v", keys)
	}
	if g.content(t, "/etc/machine-id") != r.MachineID+"\n" || g.content(t, "/var/lib/dbus/machine-id") != r.MachineID+"\n" {
		t.Error("machine-id is another one")
	}
	if err := g.removeIdentity(); err != nil {
		t.Fatal(err)
	}
	if keys, _ := filepath.Glob(g.root + "/etc/ssh/*"); len(keys) != 0 || g.content(t, "/etc/machine-id") != "" {
		t.Errorf("prepared, but there is %v", keys)
	}
}

func TestCheck(t *testing.T) {
	good := func() wire.SetupRequest {
		return wire.SetupRequest{Hostname: "vm", MachineID: strings.Repeat("0", 32), UID: 1, GID: 1, User: "user", Home: "/home/user"}
	}
	g := &guest{root: t.TempDir()}
	if err := g.check(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*wire.SetupRequest){
		"host name":  func(r *wire.SetupRequest) { r.Hostname = "a\nb" },
		"machine-id": func(r *wire.SetupRequest) { r.MachineID = "" },
		"user name":  func(r *wire.SetupRequest) { r.User = "a:b" },
		"no user":    func(r *wire.SetupRequest) { r.User = "" },
		"uid":        func(r *wire.SetupRequest) { r.UID = -1 },
		"home":       func(r *wire.SetupRequest) { r.Home = "/a:b" },
		"transport":  func(r *wire.SetupRequest) { r.Mounts = []wire.Mount{{Path: "/x", Transport: "9p"}} },
		"export":     func(r *wire.SetupRequest) { r.Mounts = []wire.Mount{{Path: "/x", Export: -1}} },
		"many":       func(r *wire.SetupRequest) { r.Mounts = make([]wire.Mount, 65) },
	} {
		r := good()
		change(&r)
		if err := g.check(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMountConflicts(t *testing.T) {
	g := systemWith(t, map[string]string{"/home/user/.rc": "", "/srv/file": ""})
	if err := errors.Join(os.Symlink("/etc", g.root+"/home/link"), os.Mkdir(g.root+"/empty", 0o755)); err != nil {
		t.Fatal(err)
	}
	for path, good := range map[string]bool{
		"/home/alice/src/x": true, "/workspace": true, "/empty": true, "/home/user/project": true, "/tmp/x": true, "/var/tmp/x": true,
		"/data/sub": true, // in a folder that is mounted before
		"/":         false, "/etc": false, "/etc/x": false, "/usr/src/x": false, "/run/x": false, "/var": false, "/var/lib/x": false,
		"/home/user": false, "/home": false, "/srv/file": false, "/srv/file/x": false, "/home/link": false, "/home/link/x": false,
		"relative": false, "/a/../etc": false, "/a/": false, "": false, "/a\x00": false, "/data": false,
	} {
		err := g.checkMounts([]wire.Mount{{Path: "/data"}, {Path: path}})
		var conflict *conflictError
		if good != (err == nil) || !good && (!errors.As(err, &conflict) || conflict.path != path) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/run": 0o755, "a/text": 0o644, "b/text": 0o755, "a/only": 0o644} {
		if err := os.MkdirAll(filepath.Dir(dir+"/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+name, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	path := dir + "/a:" + dir + "/b:relative"
	for name, want := range map[string]string{
		"run": dir + "/a/run", "text": dir + "/b/text", "only": dir + "/a/only", "none": "", "./run": "./run", "a": "",
	} {
		if got := lookPath(name, path, dir); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestNetworkMessages configures loopback in a network namespace of its own.
func TestNetworkMessages(t *testing.T) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the function
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- nil // not allowed here
			return
		}
		link, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err == nil {
			err = errors.Join(request(link, linkUp(loopback, 9000)),
				request(link, addAddress(loopback, netip.MustParsePrefix("10.1.2.3/24"))),
				request(link, addDefaultRoute(loopback, netip.MustParseAddr("10.1.2.1"))),
				request(link, addAddress(loopback, netip.MustParsePrefix("fd00::3/64"))))
		}
		if e := request(link, addDefaultRoute(loopback, netip.MustParseAddr("192.0.2.1"))); err == nil && e == nil {
			err = errors.New("a gateway that cannot be reached was accepted")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
