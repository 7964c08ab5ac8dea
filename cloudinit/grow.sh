set -eu
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
: >@MARK@
