# shellcheck shell=bash
# Builds the image. Build runs it with bash, as root, in its own mount and PID namespace. All its
# parameters are environment variables. It writes progress to descriptor 3 as "FRACTION what is
# being done".
set -euo pipefail
umask 022
trap 'echo "E: $BASH_COMMAND: exit status $?" >&2' ERR
step() { echo "$*" >&3; }

# The old /proc shows the processes outside this PID namespace.
mount -t proc proc /proc
cd "$WORK"

step 0.01 creating the disk
truncate -s $((DISK_SECTORS * 512)) disk.raw
sfdisk -q --no-tell-kernel disk.raw <<PARTS
label: gpt
start=$PART_START, size=$PART_SECTORS, type=linux, name=root, attrs=LegacyBIOSBootable
PARTS
dd if="$GPTMBR" of=disk.raw bs=440 count=1 conv=notrunc status=none
# The boot loader cannot read a file system with these two features.
mke2fs -q -F -t ext4 -L root -U "$ROOT_UUID" -O ^64bit,^metadata_csum_seed \
	-E offset=$((PART_START * 512)),lazy_itable_init=0,lazy_journal_init=0 disk.raw $((PART_SECTORS / 2))k
mkdir root
# With "loop" the kernel frees the loop device with its last mount, however this process ends.
mount -t ext4 -o "loop,offset=$((PART_START * 512)),sizelimit=$((PART_SECTORS * 512)),noatime" disk.raw root

step 0.02 fetching the packages
# Without SOURCES mmdebstrap uses its default mirror (mmdebstrap(1), MIRROR).
# shellcheck disable=SC2016 # the hook expands it
mmdebstrap ${KEYRING:+"--keyring=$KEYRING"} --verbose --mode=root --variant=apt --architectures=amd64 --format=directory \
	--include="$PACKAGES" --components="$COMPONENTS" \
	--aptopt="$WORK/apt.conf" \
	--dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-include=/usr/share/doc/*/copyright' \
	--setup-hook='cp -a "$WORK/early/." "$1/"' \
	"$CODENAME" root ${SOURCES:+"$SOURCES"}

step 0.90 configuring the system
rm -f root/etc/apt/apt.conf.d/99mmdebstrap root/etc/dpkg/dpkg.cfg.d/99mmdebstrap
if test -n "$SOURCES"; then
	# The guest's own sources, without the host's passwords, are in late.
	rm -f root/etc/apt/sources.list root/etc/apt/sources.list.d/*
fi
cp -a late/. root/
ln -sf ../run/systemd/resolve/stub-resolv.conf root/etc/resolv.conf
# Each VM gets its own.
rm -f root/etc/ssh/ssh_host_* root/var/lib/dbus/machine-id root/var/lib/systemd/random-seed
chroot root systemctl -q enable systemd-networkd.service systemd-resolved.service
# A VM has no screen; the other units would only read the disk at the first boot.
chroot root systemctl -q disable getty@tty1.service e2scrub_all.timer e2scrub_reap.service \
	apt-daily.timer apt-daily-upgrade.timer
find root/var/log root/var/cache/apt root/var/lib/apt/lists root/tmp root/var/tmp -xdev -type f -delete
extlinux --install root/boot/extlinux
test -s root/boot/extlinux/ldlinux.sys
test -s "root$KERNEL"
test -s "root$INITRD"
fstrim root || true
umount root

step 0.94 compressing the image
qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd -m 4 -W disk.raw image.qcow2
rm disk.raw
