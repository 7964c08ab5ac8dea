package cloudinit

import (
	_ "embed"
	"strings"

	"aivm.dev/aivm/internal/guestuser"

	"al.essio.dev/pkg/shellescape"
)

// A prepared image is the disk of a VM, cleaned so that other VMs can be made
// from it. Their first boot does without cloud-init, which takes most of the
// time of one: a unit in the image runs the script the seed brings, before
// network and sshd start. The script comes from the aivm that makes the VM, so
// an old image does what a new aivm wants.
const (
	cloneFile   = "aivm-clone" // on the seed, beside cloud-init's files
	cloneRunner = "/usr/lib/aivm/clone"
	cloneMark   = "/etc/aivm-clone" // first boot of a clone still to come
	growRunner  = "/usr/lib/aivm/grow"
	growMark    = "/etc/aivm-grow"
	seedSerial  = "aivm-seed" // of the seed's disk: provision/domain
)

// CloneScript is what the first boot of a VM on a prepared image does: what
// UserData says of name, user and keys, in shell. The network needs nothing:
// the image takes an address by DHCP on its one device.
func CloneScript(g Guest) ([]byte, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	lines := func(ls ...string) string {
		quoted := make([]string, len(ls))
		for i, l := range ls {
			quoted[i] = shellescape.Quote(l)
		}
		return strings.Join(quoted, " ")
	}
	r := strings.NewReplacer(
		"@UID@", guestuser.Text, "@HOST@", shellescape.Quote(g.Hostname), "@USER@", shellescape.Quote(g.User),
		"@SUDO@", shellescape.Quote(g.User+" ALL=(ALL) NOPASSWD:ALL"),
		"@KEYS@", lines(g.AuthorizedKeys...), "@PRIVATE@", lines(strings.Split(strings.TrimRight(g.HostKeyPrivatePEM, "\n"), "\n")...),
		"@PUBLIC@", shellescape.Quote(strings.TrimSpace(g.HostKeyPublic)), "@SSHD@", shellescape.Quote(strings.TrimRight(sshdConf, "\n")),
	)
	return []byte(r.Replace(cloneScript)), nil
}

// The words of printf's argument list are one line of the file each. What a
// shell does itself is done by it: where the CPU is emulated, a program takes a
// quarter of a second to start.
//
//go:embed clone.sh
var cloneScript string

// CleanScript makes a running guest one that other VMs can be made from, and
// powers it off without letting anything write again. It is a POSIX shell
// script for guest root (sudo -n sh -s), and refuses before it changes anything
// where the guest is not one aivm has brought through its first boot.
//
// What goes: machine id, host keys, the keys people log in with, cloud-init's
// state and the seed's, logs, aivm's own lists and units, package files,
// temporary files. What is free on the disk, then and before, is given back to
// the host or overwritten, so that it is not in the copy. What else lies on the
// disk stays: that is what one prepares a VM for.
func CleanScript() string {
	part := func(s string) string { return strings.TrimSuffix(s, "\n") } // the template ends its line
	return strings.NewReplacer("@RUNNER@", cloneRunner, "@MARK@", cloneMark, "@GROW@", growRunner, "@GROWMARK@", growMark,
		"@RUN@", part(cloneRun), "@GROWRUN@", part(growRun), "@UNIT@", part(cloneUnit), "@GROWUNIT@", part(growUnit), "@ZERO@", part(zeroFree)).Replace(cleanScript)
}

// CleanedLine is the last line of CleanScript when all went well.
const CleanedLine = "aivm: cleaned for cloning"

//go:embed clean.sh
var cleanScript string

// zeroFree overwrites the free blocks of an ext4 that fstrim cannot give back,
// because they share a cluster of 64 KiB of the disk's file with blocks in use:
// there lies what was deleted at any time, the seed's private host key too.
// Arguments: device, and its first sector on the disk.
//
//go:embed zerofree.pl
var zeroFree string

//go:embed clonerun.sh
var cloneRunText string

// The seed is found by the serial number aivm gives its disk. A mark that is
// empty is one that is done with.
var cloneRun = strings.NewReplacer("@SERIAL@", seedSerial, "@SCRIPT@", cloneFile, "@MARK@", cloneMark).Replace(cloneRunText)

const cloneUnit = `[Unit]
Description=aivm: first boot of a VM made from a prepared image
DefaultDependencies=no
ConditionFileNotEmpty=` + cloneMark + `
After=local-fs.target
Wants=network-pre.target
Before=network-pre.target systemd-networkd.service ssh.service ssh.socket sshd.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
StandardOutput=journal+console
StandardError=journal+console
ExecStart=/bin/sh ` + cloneRunner + `

[Install]
WantedBy=multi-user.target
`

//go:embed grow.sh
var growRunText string

// A disk larger than the image's is used whole; nobody waits for that, so it
// takes what the first login leaves of the CPU.
var growRun = strings.ReplaceAll(growRunText, "@MARK@", growMark)

const growUnit = `[Unit]
Description=aivm: use the whole disk of a VM made from a prepared image
ConditionFileNotEmpty=` + growMark + `
After=multi-user.target

[Service]
Type=oneshot
CPUSchedulingPolicy=idle
IOSchedulingClass=idle
ExecStart=/bin/sh ` + growRunner + `

[Install]
WantedBy=multi-user.target
`
