package roottest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/wall"
)

// Wall returns a firewall with typical values for this network and bridge.
func Wall(network, bridge string) wall.Wall {
	return wall.Wall{
		Network: network, Prefix: "aivm_sandbox", Bridge: bridge,
		Subnet: netip.MustParsePrefix("10.99.0.0/24"), Gateway: netip.MustParseAddr("10.99.0.1"),
		Block:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Guests: []wall.Guest{{MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.99.0.10")}},
	}
}

// StageHooks prepares the namespace as Stage does, with empty directories for hooks and
// program.
func StageHooks(t *testing.T, work string) {
	t.Helper()
	Stage(t, work, unix.MS_PRIVATE)
	for _, d := range []string{"/etc/libvirt", "/usr/local", "/run", "/var/log"} {
		Must(t, unix.Mount("none", d, "tmpfs", 0, "mode=0755"))
	}
	Must(t, os.Mkdir("/var/log/libvirt", 0o755))
}

// Libvirtd starts a real libvirtd in this mount and network namespace, and stops it and
// its networks and VMs at the end of the test.
func Libvirtd(t *testing.T) {
	t.Helper()
	Must(t, os.WriteFile("/etc/libvirt/qemu.conf", []byte("stdio_handler = \"file\"\nuser = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nnamespaces = []\ncgroup_controllers = []\n"), 0o600))
	Must(t, os.MkdirAll("/run/lock", 0o755))
	Sh(t, "ip link set lo up; libvirtd -d")
	b, err := os.ReadFile("/run/libvirtd.pid")
	Must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	Must(t, err)
	t.Cleanup(func() {
		_, _ = Virsh("destroy", "hooked")
		for _, n := range []string{"hooked", "foreign"} {
			_, _ = Virsh("net-destroy", n)
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
	})
}

// Virsh runs virsh for the test's own libvirtd.
func Virsh(args ...string) (string, error) {
	out, err := exec.Command("virsh", append([]string{"-c", "qemu:///system"}, args...)...).CombinedOutput()
	return string(out), err
}

// VirshOK runs virsh, which must succeed.
func VirshOK(t *testing.T, args ...string) string {
	t.Helper()
	out, err := Virsh(args...)
	if err != nil {
		t.Fatalf("virsh %v: %v\n%s", args, err, out)
	}
	return out
}

// VirshFails runs virsh, which must fail with these words in its output.
func VirshFails(t *testing.T, words string, args ...string) {
	t.Helper()
	if out, err := Virsh(args...); err == nil || !strings.Contains(out, words) {
		t.Fatalf("virsh %v: %v, %q lacks %q", args, err, out, words)
	}
}

// DefineNetwork defines a network; one called "hooked" has aivm's mark, for root.
func DefineNetwork(t *testing.T, name, bridge, octet string) {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	Must(t, os.WriteFile(p, []byte(fmt.Sprintf(`<network><name>%s</name>%s<forward mode='nat'/><bridge name='%s'/><ip address='10.%s.0.1' prefix='24'/></network>`, name, map[bool]string{true: Mark}[name == "hooked"], bridge, octet)), 0o600))
	VirshOK(t, "net-define", p)
}

// RulesLoaded reports whether the kernel has the tables of the firewall.
func RulesLoaded(w wall.Wall) bool {
	c, err := nftread.Read(w.Tables())
	return err == nil && c.Digest != ""
}

// Mark is the mark of a network or VM of root's.
const Mark = `<metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/></metadata>`
