package cloudinit

import (
	_ "embed"
	"strings"

	"aivm.dev/aivm/internal/guestuser"

	"al.essio.dev/pkg/shellescape"
)

// A prepared image is the disk of a VM, cleaned so that other VMs can be created from it. A
// VM created from it is called a clone here. Its first boot runs without cloud-init, which
// takes most of the time of a first boot: instead, a systemd unit in the image runs a script
// from the seed before network and sshd start. The script is from the aivm that creates the
// VM, so that an old image also works with a new aivm.
const (
	cloneFile   = "aivm-clone" // the script on the seed, next to cloud-init's files
	cloneRunner = "/usr/lib/aivm/clone"
	cloneMark   = "/etc/aivm-clone" // not empty until the clone's first boot is finished
	growRunner  = "/usr/lib/aivm/grow"
	growMark    = "/etc/aivm-grow" // not empty until the file system was grown
	seedSerial  = "aivm-seed"      // serial number of the seed's disk, set in provision/domain
)

// CloneScript returns the script for the first boot of a VM on a prepared image. It sets host
// name, user and keys like UserData. The network needs no setup: the image uses DHCP on its
// only device.
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

// cloneScript writes files with printf, whose arguments become one line each. It uses shell
// builtins where possible: with an emulated CPU, starting a program takes a quarter of a
// second.
//
//go:embed clone.sh
var cloneScript string

// CleanScript returns a POSIX shell script for guest root (sudo -n sh -s) that cleans a
// running guest so that other VMs can be created from its disk, and powers it off without
// any further write. It fails before it changes anything if the guest has not finished a
// first boot set up by aivm.
//
// It removes: machine ID, host keys, authorized login keys, the state of cloud-init and of
// the seed, logs, aivm's own lists and units, package files, temporary files. Blocks that
// are free on the disk, also from earlier deletions, are discarded or overwritten, so that
// deleted data is not in the copy. Everything else on the disk is kept: it is what the
// image is made for.
func CleanScript() string {
	part := func(s string) string { return strings.TrimSuffix(s, "\n") } // clean.sh has the line feed
	return strings.NewReplacer("@RUNNER@", cloneRunner, "@MARK@", cloneMark, "@GROW@", growRunner, "@GROWMARK@", growMark,
		"@RUN@", part(cloneRun), "@GROWRUN@", part(growRun), "@UNIT@", part(cloneUnit), "@GROWUNIT@", part(growUnit), "@ZERO@", part(zeroFree)).Replace(cleanScript)
}

// CleanedLine is the last line that CleanScript prints on success.
const CleanedLine = "aivm: cleaned for cloning"

//go:embed clean.sh
var cleanScript string

// zeroFree is a Perl script that overwrites the free blocks of an ext4 file system that
// fstrim cannot discard, because they share a 64 KiB cluster of the qcow2 file with used
// blocks. They contain data deleted at any time, possibly the private host key from the
// seed. Arguments: the device, and its first sector on the disk.
//
//go:embed zerofree.pl
var zeroFree string

//go:embed clonerun.sh
var cloneRunText string

// cloneRun finds the seed by the serial number of its disk. It empties the mark file when
// the first boot is finished.
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

// growRun grows the root partition and file system if the VM's disk is larger than the
// image's. It runs with idle priority, since nothing waits for it and it must not delay the
// first login.
var growRun = strings.ReplaceAll(growRunText, "@MARK@", growMark)

const growUnit = `[Unit]
Description=aivm: grow the root file system of a VM made from a prepared image
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
