//go:build long

package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"aivm.dev/aivm/cloudinit"
)

// oldVM is a VM as aivm 0.3 creates it: definition and files at 0.3's paths, a network without
// aivm's mark, a DHCP lease instead of a reservation, a block in ~/.ssh/config, a host key in
// ~/.ssh/known_hosts, a folder bind-mounted below VM storage, and a config that names all of it.
type oldVM struct {
	name, net, bridge, base, key, project string
	host                                  ssh.PublicKey
}

func keyPair(t *testing.T) (private []byte, public ssh.PublicKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err = ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), public
}

func authorizedLine(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// sshPortOpen reports whether the address accepts connections on port 22.
func sshPortOpen(ip string) bool {
	c, err := net.DialTimeout("tcp", ip+":22", time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// makeOld creates such a VM from an image and waits until ssh can log in.
func makeOld(t *testing.T, w *world, image string) *oldVM {
	t.Helper()
	o := &oldVM{name: "aivm-2404", net: "net-of-0-3", bridge: "virbr-aivmold", base: "/var/lib/libvirt/aivm", key: filepath.Join(w.home, ".ssh/id_ed25519"), project: filepath.Join(w.home, "old-project")}
	dir := filepath.Join(o.base, o.name)
	remove := func() {
		for _, argv := range [][]string{
			{"virsh", "-c", "qemu:///system", "destroy", o.name},
			{"virsh", "-c", "qemu:///system", "undefine", "--snapshots-metadata", o.name},
			{"virsh", "-c", "qemu:///system", "net-destroy", o.net},
			{"virsh", "-c", "qemu:///system", "net-undefine", o.net},
			// An adopted network has firewall rules, which the hook would load again.
			{"rm", "-f", "/var/lib/aivm/manifest/net-" + o.net + ".json"},
			{"umount", filepath.Join(dir, "shared-root/old-project")},
			{"sh", "-c", "cd " + dir + " && rm -f images/* cloud-init/* && rmdir shared-root/* shared-root images cloud-init . ; rmdir " + dir},
		} {
			_ = exec.Command(argv[0], argv[1:]...).Run()
		}
	}
	remove() // of an earlier, killed run
	t.Cleanup(remove)
	write(t, filepath.Join(o.project, "f"), "from 0.3\n", 0o644)
	runHost(t, "mkdir", "-p", dir+"/images", dir+"/cloud-init", dir+"/shared-root/old-project")
	runHost(t, "qemu-img", "convert", "-O", "qcow2", image, dir+"/images/noble-base.img")
	runHost(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", dir+"/images/noble-base.img", dir+"/images/"+o.name+".qcow2", "10G")
	priv, pub := keyPair(t)
	write(t, o.key, string(priv), 0o600)
	write(t, o.key+".pub", authorizedLine(pub)+"\n", 0o644)
	hostPriv, hostPub := keyPair(t)
	o.host = hostPub
	seed, err := cloudinit.Seed(cloudinit.Guest{
		InstanceID: o.name, Hostname: o.name, User: "agent", AuthorizedKeys: []string{authorizedLine(pub)},
		HostKeyPrivatePEM: string(hostPriv), HostKeyPublic: authorizedLine(hostPub), MAC: "52:54:00:a0:03:01",
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/cloud-init/"+o.name+"-seed.iso", string(seed), 0o644)
	for _, f := range []string{"user-data", "meta-data", "network-config"} {
		write(t, dir+"/cloud-init/"+f, "#\n", 0o644)
	}
	runHost(t, "mount", "--bind", o.project, dir+"/shared-root/old-project")
	define := func(verb, text string) {
		f := filepath.Join(t.TempDir(), "x.xml")
		write(t, f, text, 0o600)
		runHost(t, "virsh", "-q", "-c", "qemu:///system", verb, f)
	}
	define("net-define", fmt.Sprintf(`<network><name>%s</name><forward mode='nat'/><bridge name='%s' stp='on' delay='0'/>
<ip address='10.88.77.1' prefix='24'><dhcp><range start='10.88.77.100' end='10.88.77.200'/></dhcp></ip></network>`, o.net, o.bridge))
	virsh(t, "net-autostart", o.net)
	virsh(t, "net-start", o.net)
	// The domain that virt-install makes of 0.3's arguments, without KVM and firmware, which the
	// host may lack. The seed is a virtio disk, because cloud kernels have no driver for others.
	define("define", fmt.Sprintf(`<domain type='qemu'><name>%[1]s</name><memory unit='MiB'>1536</memory><vcpu>1</vcpu>
<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/></features><cpu mode='maximum' check='none'/>
<clock offset='utc'/><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='%[2]s/images/%[1]s.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%[2]s/cloud-init/%[1]s-seed.iso'/><target dev='vdb' bus='virtio'/><readonly/></disk>
<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='%[2]s/shared-root'/><target dir='aivm-shared-root'/></filesystem>
<interface type='network'><mac address='52:54:00:a0:03:01'/><source network='%[3]s'/><model type='virtio'/></interface>
<console type='pty'/><channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>`, o.name, dir, o.net))
	virsh(t, "start", o.name)
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), fmt.Sprintf(`schema_version = 5
active_vm = %[1]q

[[networks]]
name = %[2]q

[networks.network]
name = %[2]q
bridge = %[3]q
subnet_cidr = "10.88.77.0/24"
gateway_ip = "10.88.77.1"
dhcp_start = "10.88.77.100"
dhcp_end = "10.88.77.200"

[[vms]]
name = %[1]q
network_name = %[2]q

[vms.vm]
name = %[1]q
user = "agent"
cpus = 1
ram_mb = 1536
disk_gb = 10
allow_password_login = false
password = "hunter2-of-0.3"

[vms.paths]
base_dir = %[4]q
ssh_identity_file = %[5]q
ssh_pubkey_path = %[6]q

[[attachments]]
host_path = %[7]q
vm_name = %[1]q
mode = "shared-root"
access = "rw"
guest_dst = %[7]q
tag = "old-project"
`, o.name, o.net, o.bridge, o.base, o.key, o.key+".pub", o.project), 0o600)
	ip := ""
	for began := time.Now(); ip == "" || !sshPortOpen(ip); time.Sleep(time.Second) {
		if time.Since(began) > 12*time.Minute {
			t.Fatal("the VM of 0.3 has no open SSH port after 12 minutes")
		}
		for _, f := range strings.Fields(virsh(t, "net-dhcp-leases", o.net)) {
			if strings.HasPrefix(f, "10.88.77.") {
				ip, _, _ = strings.Cut(f, "/")
			}
		}
	}
	write(t, filepath.Join(w.home, ".ssh/known_hosts"), knownhosts.Line([]string{knownhosts.HashHostname(ip)}, hostPub)+"\n", 0o600)
	write(t, filepath.Join(w.home, ".ssh/config"), "Host other\n\tUser me\n\n# >>> aivm:"+o.name+" >>>\nHost "+o.name+"\n    HostName "+ip+"\n    User agent\n    IdentityFile "+o.key+
		"\n    IdentitiesOnly yes\n    StrictHostKeyChecking accept-new\n    UserKnownHostsFile "+filepath.Join(w.home, ".ssh/known_hosts")+"\n# <<< aivm:"+o.name+" <<<\n", 0o600)
	for began := time.Now(); w.ssh(nil, o.name, "true").code != 0; time.Sleep(time.Second) {
		if time.Since(began) > 12*time.Minute {
			t.Fatal("ssh cannot log in to the VM of 0.3 after 12 minutes")
		}
	}
	if _, err := os.Stat(filepath.Join(w.home, ".local")); err == nil {
		t.Fatal("~/.local exists, but 0.3 keeps no state there")
	}
	return o
}
