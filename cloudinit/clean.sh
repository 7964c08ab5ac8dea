set -eu
fail() { printf '%s\n' "$1" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail 'cleaning a guest needs root in it'
# Only a copy of a VM is cleaned, which has no device of type 26 (virtiofs) for folders of the host.
! grep -qsx 0x001a /sys/bus/virtio/devices/*/device || fail 'this VM has shared folders: only a copy without them can be cleaned'
[ -e /etc/cloud/cloud-init.disabled ] || fail 'the first boot of this VM is not finished'
[ -x /usr/libexec/netplan/generate ] || [ -x /lib/netplan/generate ] || fail 'the guest has no netplan, which VMs made from it need to configure their network'
command -v systemctl >/dev/null || fail 'the guest has no systemd'
export LC_ALL=C
quiet() { "$@" >/dev/null 2>&1 || true; }
# Overwrite files before deleting them, for file systems that zerofree.pl does not support.
wipe() { for f in "$@"; do if [ -f "$f" ] && [ ! -L "$f" ]; then quiet shred -n 0 -z "$f"; fi; done; rm -f "$@"; }
# Whether a path is on a disk of this VM, and not on another machine or in memory.
on_disk() { case $(findmnt -nro SOURCE -T "$1" 2>/dev/null | tail -n 1) in /dev/*) return 0 ;; esac; return 1; }
# Deletes directories, but nothing that is mounted in them or at their path. Not every system's rm can.
remove() { for d in "$@"; do if [ -d "$d" ] && [ ! -L "$d" ] && on_disk "$d" && ! mountpoint -q "$d"; then find "$d" -xdev -delete; fi; done; }
quiet systemctl stop apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service rsyslog.service syslog.socket cron.service
# From here on journald writes to memory only.
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\n' >/run/systemd/journald.conf.d/aivm.conf
quiet systemctl restart systemd-journald.service
quiet systemctl stop systemd-random-seed.service systemd-timesyncd.service

# aivm's units and files for this VM.
for u in /etc/systemd/system/aivm-*.service; do
	[ -e "$u" ] || continue
	quiet systemctl disable "${u##*/}"
	rm -f "$u" /etc/systemd/system/*.wants/"${u##*/}"
done
remove /var/lib/aivm /usr/lib/aivm
rm -f /usr/local/sbin/aivm-* /etc/aivm-clone /etc/aivm-grow

# The identity of the guest, and the keys that can log in. A home can be that of another machine.
getent passwd | cut -d: -f6 | sort -u | while read -r home; do
	if on_disk "$home/.ssh"; then wipe "$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2"; fi
	remove "$home/.local/state/aivm"
done
wipe /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
rm -f /var/lib/dbus/machine-id
: >/etc/machine-id
printf 'localhost\n' >/etc/hostname
sed -i '/^127\.0\.1\.1[[:space:]]/d' /etc/hosts
rm -f /var/lib/dhcp/* /var/lib/NetworkManager/*.lease

# The state of the first boot, with data from the seed. cloud-init stays off; the unit
# aivm-clone below replaces it.
if on_disk /var/lib/cloud; then find /var/lib/cloud -xdev -type f -size +0 -exec shred -n 0 -z {} + 2>/dev/null || true; fi
rm -f /var/lib/cloud/instance
remove /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem /var/lib/cloud/seed
rm -f /etc/netplan/50-cloud-init.yaml
printf '%s\n' '{"network": {"version": 2, "ethernets": {"lan": {"match": {"driver": "virtio_net"}, "dhcp4": true, "dhcp6": false, "accept-ra": false, "link-local": [], "dhcp-identifier": "mac"}}}}' >/etc/netplan/50-cloud-init.yaml
chmod 0600 /etc/netplan/50-cloud-init.yaml

# Logs, caches, temporary files.
if on_disk /var/log; then
	find /var/log -xdev -type f -size +0 -exec shred -n 0 -z {} + 2>/dev/null || true
	remove /var/log/journal/*
	find /var/log -xdev -type f \( -name '*.gz' -o -name '*.xz' -o -name '*.old' -o -name '*.[0-9]' \) -delete
	find /var/log -xdev -type f -exec truncate -s 0 {} +
fi
if on_disk /var/cache/apt/archives; then find /var/cache/apt/archives -xdev -type f -name '*.deb' -delete 2>/dev/null || true; fi
for d in /tmp /var/tmp; do
	if on_disk "$d"; then find "$d" -xdev -mindepth 1 -delete 2>/dev/null || true; fi
done

# The units for the first boot of a VM made from the image.
mkdir -p /usr/lib/aivm
cat >@RUNNER@ <<'AIVM'
@RUN@
AIVM
cat >@GROW@ <<'AIVM'
@GROWRUN@
AIVM
cat >/etc/systemd/system/aivm-clone.service <<'AIVM'
@UNIT@
AIVM
cat >/etc/systemd/system/aivm-grow.service <<'AIVM'
@GROWUNIT@
AIVM
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sf ../aivm-clone.service ../aivm-grow.service /etc/systemd/system/multi-user.target.wants/
printf '%s\n' 'The first boot of a VM made from this image is pending.' >@MARK@
printf '%s\n' 'The root file system has not been grown to the size of the disk yet.' >@GROWMARK@
dev=$(findmnt -nro SOURCE /) fs=$(findmnt -nro FSTYPE /)
start=$(cat "/sys/class/block/${dev#/dev/}/start" 2>/dev/null || echo 0)
sync
quiet fstrim -a
[ -s @RUNNER@ ] && [ ! -s /etc/machine-id ] && [ -z "$(ls /etc/ssh/ssh_host_* 2>/dev/null)" ] || fail 'the guest could not be cleaned'
# Make all file systems read-only, so that a shutdown does not save state and write logs again.
echo u >/proc/sysrq-trigger
n=0
until grep -Eq '^[^ ]+ / [^ ]+ ro[, ]' /proc/mounts; do
	n=$((n + 1))
	[ "$n" -lt 300 ] || fail 'the file system of the guest could not be made read-only'
	sleep 0.1
done
case $fs in
ext*) perl - "$dev" "$start" <<'AIVM' || fail 'the free blocks of the disk could not be overwritten'
@ZERO@
AIVM
	sync ;;
esac
printf '%s\n' 'aivm: cleaned for cloning'
(
	trap '' HUP
	sleep 1
	echo o >/proc/sysrq-trigger
) </dev/null >/dev/null 2>&1 &
