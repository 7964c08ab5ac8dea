package cloudinit

import (
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/guestuser"
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
		"@HOST@", shellescape.Quote(g.Hostname), "@USER@", shellescape.Quote(g.User),
		"@SUDO@", shellescape.Quote(g.User+" ALL=(ALL) NOPASSWD:ALL"),
		"@KEYS@", lines(g.AuthorizedKeys...), "@PRIVATE@", lines(strings.Split(strings.TrimRight(g.HostKeyPrivatePEM, "\n"), "\n")...),
		"@PUBLIC@", shellescape.Quote(strings.TrimSpace(g.HostKeyPublic)), "@SSHD@", shellescape.Quote(strings.TrimRight(sshdConf, "\n")),
	)
	return []byte(r.Replace(cloneScript)), nil
}

// The words of printf's argument list are one line of the file each. What a
// shell does itself is done by it: where the CPU is emulated, a program takes a
// quarter of a second to start.
const cloneScript = `set -eu
host=@HOST@ user=@USER@
printf '%s\n' "$host" >/etc/hostname
printf '%s\n' "$host" >/proc/sys/kernel/hostname
printf '127.0.1.1 %s\n' "$host" >>/etc/hosts
entry() {
	home= group= other=
	while IFS=: read -r name _ uid gid _ dir _; do
		if [ "$name" = "$user" ]; then home=$dir group=$gid; fi
		if [ "$uid" = ` + guestuser.Text + ` ]; then other=$name; fi
	done </etc/passwd
}
entry
if [ -z "$home" ]; then
	if [ -n "$other" ]; then
		usermod -l "$user" -d "/home/$user" -m "$other"
		groupmod -n "$user" "$other" || true
	else
		useradd -m -U -u ` + guestuser.Text + ` -s /bin/bash "$user"
	fi
	entry
fi
grep -q "^$user:!" /etc/shadow || usermod -L "$user"
umask 0337
printf '%s\n' @SUDO@ >/etc/sudoers.d/90-cloud-init-users
umask 077
[ -d "$home/.ssh" ] || mkdir -p "$home/.ssh"
printf '%s\n' @KEYS@ >"$home/.ssh/authorized_keys"
chown "$user:$group" "$home/.ssh" "$home/.ssh/authorized_keys"
for key in /etc/ssh/ssh_host_*; do
	[ ! -e "$key" ] || rm -f "$key"
done
printf '%s\n' @PRIVATE@ >/etc/ssh/ssh_host_ed25519_key
umask 022
printf '%s\n' @PUBLIC@ >/etc/ssh/ssh_host_ed25519_key.pub
[ -d /etc/ssh/sshd_config.d ] || mkdir -p /etc/ssh/sshd_config.d
printf '%s\n' @SSHD@ >/etc/ssh/sshd_config.d/10-aivm.conf
`

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
	return strings.NewReplacer("@RUNNER@", cloneRunner, "@MARK@", cloneMark, "@GROW@", growRunner, "@GROWMARK@", growMark,
		"@RUN@", cloneRun, "@GROWRUN@", growRun, "@UNIT@", cloneUnit, "@GROWUNIT@", growUnit, "@ZERO@", zeroFree).Replace(cleanScript)
}

// CleanedLine is the last line of CleanScript when all went well.
const CleanedLine = "aivm: cleaned for cloning"

const cleanScript = `set -eu
fail() { printf '%s\n' "$1" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail 'cleaning a guest needs root in it'
[ -e /etc/cloud/cloud-init.disabled ] || fail 'the first boot of this VM is not over'
[ -x /usr/libexec/netplan/generate ] || [ -x /lib/netplan/generate ] || fail 'the guest has no netplan, by which its clones would find their network'
command -v systemctl >/dev/null || fail 'the guest has no systemd'
export LC_ALL=C
quiet() { "$@" >/dev/null 2>&1 || true; }
# Overwritten and not only deleted, for file systems zeroFree does not know.
wipe() { for f in "$@"; do if [ -f "$f" ] && [ ! -L "$f" ]; then quiet shred -n 0 -z "$f"; fi; done; rm -f "$@"; }
quiet systemctl stop apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service rsyslog.service syslog.socket cron.service
# From here on the journal is written to memory.
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\n' >/run/systemd/journald.conf.d/aivm.conf
quiet systemctl restart systemd-journald.service
quiet systemctl stop systemd-random-seed.service systemd-timesyncd.service

# Ours, of this VM.
for u in /etc/systemd/system/aivm-*.service; do
	[ -e "$u" ] || continue
	quiet systemctl disable "${u##*/}"
	rm -f "$u" /etc/systemd/system/*.wants/"${u##*/}"
done
rm -rf --one-file-system /var/lib/aivm /usr/lib/aivm
rm -f /usr/local/sbin/aivm-* /etc/aivm-clone /etc/aivm-grow

# Who it is, and who may log in.
getent passwd | cut -d: -f6 | sort -u | while read -r home; do
	wipe "$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2"
	rm -rf --one-file-system "$home/.local/state/aivm"
done
wipe /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
rm -f /var/lib/dbus/machine-id
: >/etc/machine-id
printf 'localhost\n' >/etc/hostname
sed -i '/^127\.0\.1\.1[[:space:]]/d' /etc/hosts
rm -f /var/lib/dhcp/* /var/lib/NetworkManager/*.lease

# The first boot's state, with what the seed said. cloud-init stays off: the unit
# below does its part.
find /var/lib/cloud -xdev -type f -size +0 -exec shred -n 0 -z {} + 2>/dev/null || true
rm -rf --one-file-system /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem /var/lib/cloud/seed
rm -f /etc/netplan/50-cloud-init.yaml
printf '%s\n' '{"network": {"version": 2, "ethernets": {"lan": {"match": {"driver": "virtio_net"}, "dhcp4": true, "dhcp6": false, "accept-ra": false, "link-local": [], "dhcp-identifier": "mac"}}}}' >/etc/netplan/50-cloud-init.yaml
chmod 0600 /etc/netplan/50-cloud-init.yaml

# Logs, caches, temporary files.
find /var/log -xdev -type f -size +0 -exec shred -n 0 -z {} + 2>/dev/null || true
rm -rf --one-file-system /var/log/journal/*
find /var/log -xdev -type f \( -name '*.gz' -o -name '*.xz' -o -name '*.old' -o -name '*.[0-9]' \) -delete
find /var/log -xdev -type f -exec truncate -s 0 {} +
find /var/cache/apt/archives -xdev -type f -name '*.deb' -delete 2>/dev/null || true
find /tmp /var/tmp -xdev -mindepth 1 -delete 2>/dev/null || true

# What makes a clone of it.
mkdir -p /usr/lib/aivm
cat >@RUNNER@ <<'AIVM'
@RUN@AIVM
cat >@GROW@ <<'AIVM'
@GROWRUN@AIVM
cat >/etc/systemd/system/aivm-clone.service <<'AIVM'
@UNIT@AIVM
cat >/etc/systemd/system/aivm-grow.service <<'AIVM'
@GROWUNIT@AIVM
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sf ../aivm-clone.service ../aivm-grow.service /etc/systemd/system/multi-user.target.wants/
printf '%s\n' 'The first boot of a VM made from this image is still to come.' >@MARK@
printf '%s\n' 'The disk is still to be used whole.' >@GROWMARK@
dev=$(findmnt -nro SOURCE /) fs=$(findmnt -nro FSTYPE /)
start=$(cat "/sys/class/block/${dev#/dev/}/start" 2>/dev/null || echo 0)
sync
quiet fstrim -a
[ -s @RUNNER@ ] && [ ! -s /etc/machine-id ] && [ -z "$(ls /etc/ssh/ssh_host_* 2>/dev/null)" ] || fail 'the guest could not be cleaned'
# Nothing is written any more: no shutdown saves and logs things anew.
echo u >/proc/sysrq-trigger
n=0
until grep -Eq '^[^ ]+ / [^ ]+ ro[, ]' /proc/mounts; do
	n=$((n + 1))
	[ "$n" -lt 300 ] || fail 'the file system of the guest could not be made read-only'
	sleep 0.1
done
case $fs in
ext*) perl - "$dev" "$start" <<'AIVM' || fail 'what is free on the disk could not be overwritten'
@ZERO@AIVM
	sync ;;
esac
printf '%s\n' 'aivm: cleaned for cloning'
(
	trap '' HUP
	sleep 1
	echo o >/proc/sysrq-trigger
) </dev/null >/dev/null 2>&1 &
`

// zeroFree overwrites the free blocks of an ext4 that fstrim cannot give back,
// because they share a cluster of 64 KiB of the disk's file with blocks in use:
// there lies what was deleted at any time, the seed's private host key too.
// Arguments: device, and its first sector on the disk.
const zeroFree = `use strict;
my ($dev, $start) = @ARGV;
my ($bs, @free);
open my $list, '-|', 'dumpe2fs', $dev or die "dumpe2fs: $!";
while (<$list>) {
	$bs = $1 if /^Block size:\s+(\d+)/;
	next unless /^\s+Free blocks: (\d.*)/;
	push @free, map { /^(\d+)(?:-(\d+))?$/ ? [$1, $2 // $1] : () } split /,\s*/, $1;
}
close $list or die 'dumpe2fs failed';
die 'no block size' unless $bs;
my $n = int(65536 / $bs);
exit 0 if $n < 2;
my $off = int($start * 512 % 65536 / $bs);
open my $disk, '+<', $dev or die "$dev: $!";
binmode $disk;
sub zero {
	my ($from, $to) = @_;
	my $bytes = ($to - $from + 1) * $bs;
	sysseek($disk, $from * $bs, 0) or die "seek: $!";
	syswrite($disk, "\0" x $bytes) == $bytes or die "write: $!";
}
for (@free) {
	my ($from, $to) = @$_;
	my $head = $from + (-($from + $off)) % $n;
	my $tail = $to + 1 - ($to + 1 + $off) % $n;
	if ($head >= $tail) { zero($from, $to); next }
	zero($from, $head - 1) if $head > $from;
	zero($tail, $to) if $tail <= $to;
}
close $disk or die "close: $!";
`

// The seed is found by the serial number aivm gives its disk. A mark that is
// empty is one that is done with.
const cloneRun = `set -eu
n=0
while [ "$n" -lt 300 ]; do
	for s in /sys/block/*/serial; do
		serial=
		[ ! -r "$s" ] || IFS= read -r serial <"$s" || true
		[ "$serial" = ` + seedSerial + ` ] || continue
		d=${s#/sys/block/}
		mkdir -p /run/aivm-clone
		mount -t iso9660 -o ro "/dev/${d%/serial}" /run/aivm-clone
		if ! [ -s /run/aivm-clone/` + cloneFile + ` ]; then
			echo 'aivm: the seed was made by a version that knows no prepared images'
			exit 1
		fi
		. /run/aivm-clone/` + cloneFile + `
		umount /run/aivm-clone
		: >` + cloneMark + `
		exit 0
	done
	sleep 0.1
	n=$((n + 1))
done
echo 'aivm: this VM is made from a prepared image and has no seed: it gets no name, user or keys'
exit 1
`

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

// A disk larger than the image's is used whole; nobody waits for that, so it
// takes what the first login leaves of the CPU.
const growRun = `set -eu
dev=$(findmnt -nro SOURCE /)
name=${dev#/dev/}
if read -r part <"/sys/class/block/$name/partition" && read -r start <"/sys/class/block/$name/start" && read -r size <"/sys/class/block/$name/size"; then
	disk=$(readlink -f "/sys/class/block/$name/..")
	read -r all <"$disk/size"
	if [ $((all - start - size)) -gt 8192 ]; then
		growpart "/dev/${disk##*/}" "$part" || true
		case $(findmnt -nro FSTYPE /) in
		ext*) resize2fs "$dev" ;;
		xfs) xfs_growfs / ;;
		btrfs) btrfs filesystem resize max / ;;
		esac
	fi
fi
: >` + growMark + `
`

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
