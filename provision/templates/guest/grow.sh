# Grows the root file system of the VM to the size of its disk.
set -eu
dev=$(findmnt -n -o SOURCE / | head -n 1)
case $dev in
/dev/vda[0-9]*) n=${dev#/dev/vda} ;;
*) dev=$(awk '$9 != "" && $5 == "/" { print $10 }' /proc/self/mountinfo | tail -n 1); n=${dev#/dev/vda} ;;
esac
case $n in
'' | *[!0-9]*) echo "the root file system is on $dev, which is not grown" >&2; exit 0 ;;
esac
last=$(for p in /sys/class/block/vda/vda*; do echo "$(cat "$p/start") ${p##*/vda}"; done | sort -n | tail -n 1)
if test "${last#* }" != "$n"; then echo "partition $n is not the last one: not grown" >&2; exit 0; fi
if command -v sfdisk >/dev/null; then
	echo ', +' | sfdisk -q --no-reread --no-tell-kernel -N "$n" /dev/vda
	partx -u --nr "$n" /dev/vda
elif command -v growpart >/dev/null; then
	growpart /dev/vda "$n" || true
else
	echo "the image has neither sfdisk nor growpart: the disk is not grown" >&2
	exit 0
fi
resize2fs "$dev"
