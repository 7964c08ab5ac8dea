package record_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

var goodBind = record.Bind{Src: "/home/u/my p", VMKey: "1000-a", Token: "p-0123", RO: true, UID: 1000, GID: 100, Dev: 3, Ino: 4}

func TestCheckRefuses(t *testing.T) {
	bind := func(change func(*record.Bind)) record.Op { b := goodBind; change(&b); return b }
	nft := func(change func(*wall.Wall)) record.Op {
		w := roottest.Wall("n", "b")
		change(&w)
		return record.Nft{Wall: w}
	}
	bad := []record.Op{
		record.Nft{},
		nft(func(w *wall.Wall) { w.Network = "../x" }), nft(func(w *wall.Wall) { w.Network = "" }), nft(func(w *wall.Wall) { w.Network = "a;b" }),
		nft(func(w *wall.Wall) { w.Bridge = `b" drop; flush ruleset` }), nft(func(w *wall.Wall) { w.Bridge = strings.Repeat("b", 16) }),
		nft(func(w *wall.Wall) { w.Prefix = "x { }" }), nft(func(w *wall.Wall) { w.Prefix = "" }),
		nft(func(w *wall.Wall) { w.Subnet = netip.Prefix{} }), nft(func(w *wall.Wall) { w.Gateway = netip.MustParseAddr("8.8.8.8") }),
		nft(func(w *wall.Wall) { w.Block = append(w.Block, netip.Prefix{}) }),
		nft(func(w *wall.Wall) { w.Ports = []wall.Ports{{Proto: "sctp", First: 1, Last: 2}} }),
		nft(func(w *wall.Wall) { w.Ports = []wall.Ports{{Proto: "tcp", First: 9, Last: 2}} }),
		nft(func(w *wall.Wall) { w.LAN = []wall.Endpoint{{}} }),
		nft(func(w *wall.Wall) { w.Guests = []wall.Guest{{MAC: "52:54:00:00:00:01; x", IP: w.Gateway}} }),
		nft(func(w *wall.Wall) {
			w.Guests = []wall.Guest{{MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("8.8.8.8")}}
		}),
		record.Export{},
		record.Export{VMKey: "a"},
		record.Export{VMKey: "1000-"},
		record.Export{VMKey: "1000-A"},
		record.Export{VMKey: "1000-a/../b"},
		record.Export{VMKey: "1000-a\n"},
		record.Export{VMKey: "01000-a"},
		record.Export{VMKey: "99999999999999999999-a"},
		record.Export{VMKey: "1000-" + strings.Repeat("a", 64)},
		record.Export{VMKey: "1001-a"},
		record.Unexport{VMKey: "0-a"},
		record.Unbind{VMKey: "1001-a", Token: "x"}, // not the caller's
		record.Unbind{VMKey: "1000-a", Token: ".."},
		record.Unbind{VMKey: "1000-a", Token: "a/b"},
		record.Unbind{VMKey: "1000-a", Token: ""},
		record.Unbind{VMKey: "1000-a", Token: "a\n"},
		record.Unbind{VMKey: "1000-a", Token: strings.Repeat("a", 65)},
		bind(func(b *record.Bind) { b.Src = "" }), bind(func(b *record.Bind) { b.Src = "p" }), bind(func(b *record.Bind) { b.Src = "/" }),
		bind(func(b *record.Bind) { b.Src = "/a/../etc" }), bind(func(b *record.Bind) { b.Src = "/a/" }), bind(func(b *record.Bind) { b.Src = "/a\nb" }),
		bind(func(b *record.Bind) { b.Src = rootfile.ExportBase }), bind(func(b *record.Bind) { b.Src = rootfile.ExportBase + "/1000-a/x" }),
		bind(func(b *record.Bind) { b.UID = -1 }), bind(func(b *record.Bind) { b.GID = 1<<32 - 1 }), bind(func(b *record.Bind) { b.Ino = 0 }),
		bind(func(b *record.Bind) { b.VMKey = "1001-a" }), bind(func(b *record.Bind) { b.Token = "-x" }),
		record.Packages{Manager: "apt"},
		record.Packages{Manager: "sh", Names: []string{"a1"}},
		record.Packages{Manager: "apt", Names: []string{"-o"}},
		record.Packages{Manager: "apt", Names: []string{"a b"}},
		record.Packages{Manager: "apt", Names: []string{"bash-"}},
		record.Packages{Manager: "apt", Names: []string{"bash+"}},
		record.Packages{Manager: "apt", Names: []string{"bash-++-"}},
		record.Packages{Manager: "apt", Names: []string{"bash."}},
		record.Packages{Manager: "apt", Names: []string{"ok1", "./x.deb"}},
		record.Packages{Manager: "apt", Names: []string{"git/sid"}},
		record.Packages{Manager: "apt", Names: []string{"git="}},
		record.Packages{Manager: "dnf", Names: []string{"--nogpgcheck"}},
		record.Packages{Manager: "pacman"},
		record.Service{Name: "sshd"},
		record.Service{Name: ""},
		record.KVMModule{Name: "nf_tables"},
		record.KVMModule{Name: "kvm_intel.ko"},
		record.LibvirtSocket{Path: "/run/docker.sock"},
		record.LibvirtSocket{Path: "/tmp/libvirt-sock"},
		record.LibvirtSocket{Path: "/run/libvirt/../docker.sock"},
		record.LibvirtSocket{Path: "/run/libvirt/libvirt-sock/"},
		record.LibvirtSocket{Path: "qemu:///system?socket=/run/libvirt/libvirt-sock"},
		record.LibvirtSocket{},
		record.BuildImage{},
		record.BuildImage{Distro: "../x"},
		record.BuildImage{Distro: "-x"},
	}
	for _, op := range bad {
		err := record.Check(op, 1000)
		var e *ui.Error
		if !errors.As(err, &e) || e.Kind != "refused" {
			t.Errorf("%s %+v: got %v, want refused", op.Kind(), op, err)
		}
	}
	if err := record.Check(record.Export{VMKey: "1001-a"}, -1); err != nil {
		t.Errorf("root itself may name any VM: %v", err)
	}
}

func TestBindShowsItsOwnerMap(t *testing.T) {
	want := "mount --bind -o nosuid,nodev,ro,X-mount.idmap='u:1000:1000:1 u:65534:0:1 g:100:1000:1 g:65534:0:1' '/home/u/my p' /var/lib/aivm/export/1000-a/p-0123"
	if got := goodBind.Shows(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q", got)
	}
	b := goodBind
	b.Groups = []int{1000, 5555}
	if want := "g:100:1000:1 g:65534:0:1 g:1000:100:1 g:5555:5555:1'"; !strings.Contains(b.Shows()[0], want) {
		t.Errorf("got %q, want %q", b.Shows(), want)
	}
}

// No group is mapped twice, on either side, and root's and nobody's are not mapped.
func TestGroupMapIsOneToOne(t *testing.T) {
	many := []int{1000, 0, 65534, 65533, 5555, 27, 999, 5555, -1, 1<<32 - 1}
	for i := range 3 * record.MaxGroups {
		many = append(many, 20000+i)
	}
	for _, gid := range []int{0, 100, 1000, 5555, 65533, 65534, 1<<32 - 2} {
		groups := record.Mappable(gid, many)
		if len(groups) != record.MaxGroups {
			t.Errorf("gid %d: %d groups", gid, len(groups))
		}
		disk, guest, bytes := map[int]bool{}, map[int]bool{}, 0
		for _, m := range record.GroupMap(gid, groups) {
			if disk[m.ContainerID] || guest[m.HostID] || m.Size != 1 {
				t.Errorf("gid %d: %+v is mapped twice", gid, m)
			}
			disk[m.ContainerID], guest[m.HostID] = true, true
			bytes += len(fmt.Sprintf("%d %d 1\n", 1<<32-2, 1<<32-2))
		}
		if bytes >= 4096 {
			t.Errorf("the map has up to %d bytes", bytes)
		}
		if gid != 0 && disk[0] || gid != 0 && guest[1000] && !disk[gid] {
			t.Errorf("gid %d: %v", gid, disk)
		}
	}
	for _, groups := range [][]int{{0}, {65534}, {100}, {5555, 27}, {27, 27}, {-5}, make([]int, 1000)} {
		b := goodBind
		if b.Groups = groups; record.Check(b, -1) == nil {
			t.Errorf("groups %v are accepted", groups)
		}
	}
}
