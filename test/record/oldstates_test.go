package record

import (
	"fmt"
	"os"
	"strings"
)

// vm03 has the VM aivm-2404 as aivm 0.3 creates it: no mark, a DHCP lease instead of a reservation, a
// block in ~/.ssh/config, a host key in known_hosts, a folder below VM storage. test/e2e/aivm03_test.go
// creates the same in a real libvirt.
func vm03(w *world) {
	proj(w)
	// Not 0.3's /var/lib/libvirt/aivm: aivm asks whether it exists, which differs between machines.
	const base = top + "/base"
	const name, dir, ip, mac = "aivm-2404", base + "/aivm-2404", "10.88.77.101", "52:54:00:a0:03:01"
	w.must(os.MkdirAll(base, 0o755))
	w.write(storePath, strings.NewReplacer("VM", name, "PROJ", projDir, "HOME", homeDir, "BASE", base).Replace(vm03Config), 0o600)
	n, err := w.virt.defineNetwork("<network><name>net-of-0-3</name><uuid>27dbbd5f-3047-4b6c-9628-3ce6835aa523</uuid><forward mode='nat'/><bridge name='virbr-aivmold' stp='on' delay='0'/>" +
		"<ip address='10.88.77.1' prefix='24'><dhcp><range start='10.88.77.100' end='10.88.77.200'/></dhcp></ip></network>")
	w.must(err)
	n.active, n.autostart = true, true
	n.lease(mac, ip, name)
	d, err := w.virt.define(fmt.Sprintf(`<domain type='kvm'><name>%[1]s</name><uuid>81b3c552-d51f-4fe5-b6a9-e533c4efffbf</uuid><memory unit='MiB'>1536</memory><vcpu>2</vcpu>
<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/></features><cpu mode='maximum' check='none'/>
<clock offset='utc'/><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='%[2]s/images/%[1]s.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%[2]s/cloud-init/%[1]s-seed.iso'/><target dev='vdb' bus='virtio'/><readonly/></disk>
<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='%[2]s/shared-root'/><target dir='aivm-shared-root'/></filesystem>
<interface type='network'><mac address='%[3]s'/><source network='net-of-0-3'/><model type='virtio'/></interface>
<console type='pty'/><channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>`, name, dir, mac))
	w.must(err)
	w.must(w.virt.start(d))
	w.write(homeDir+"/.ssh/known_hosts", ip+" "+hostPublic+"\n", 0o600)
	w.write(homeDir+"/.ssh/config", "Host other\n\tUser me\n\n# >>> aivm:"+name+" >>>\nHost "+name+"\n    HostName "+ip+"\n    User agent\n    IdentityFile "+homeDir+"/.ssh/id_ed25519\n"+
		"    IdentitiesOnly yes\n    StrictHostKeyChecking accept-new\n    UserKnownHostsFile "+homeDir+"/.ssh/known_hosts\n# <<< aivm:"+name+" <<<\n", 0o600)
}

const vm03Config = `schema_version = 5
active_vm = "VM"

[[networks]]
name = "net-of-0-3"

[networks.network]
name = "net-of-0-3"
bridge = "virbr-aivmold"
subnet_cidr = "10.88.77.0/24"
gateway_ip = "10.88.77.1"
dhcp_start = "10.88.77.100"
dhcp_end = "10.88.77.200"

[[vms]]
name = "VM"
network_name = "net-of-0-3"

[vms.vm]
name = "VM"
user = "agent"
cpus = 2
ram_mb = 1536
disk_gb = 10
allow_password_login = false
password = "hunter2-of-0.3"

[vms.paths]
base_dir = "BASE"
ssh_identity_file = "HOME/.ssh/id_ed25519"
ssh_pubkey_path = "HOME/.ssh/id_ed25519.pub"

[[attachments]]
host_path = "PROJ"
vm_name = "VM"
mode = "shared-root"
access = "rw"
guest_dst = "PROJ"
tag = "proj"
`

func vm03Off(w *world) { w.virt.stop(w.virt.domainNamed("aivm-2404")) }

func vm03UnknownHostKey(w *world) { w.write(homeDir+"/.ssh/known_hosts", "", 0o600) }

var adopted = all(vm03, ran("vm adopt --yes"))
