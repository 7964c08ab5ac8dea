set -eu
n=0
while [ "$n" -lt 300 ]; do
	for s in /sys/block/*/serial; do
		serial=
		[ ! -r "$s" ] || IFS= read -r serial <"$s" || true
		[ "$serial" = @SERIAL@ ] || continue
		d=${s#/sys/block/}
		mkdir -p /run/aivm-clone
		mount -t iso9660 -o ro "/dev/${d%/serial}" /run/aivm-clone
		if ! [ -s /run/aivm-clone/@SCRIPT@ ]; then
			echo 'aivm: the seed was made by a version of aivm without prepared images'
			exit 1
		fi
		. /run/aivm-clone/@SCRIPT@
		umount /run/aivm-clone
		: >@MARK@
		exit 0
	done
	sleep 0.1
	n=$((n + 1))
done
echo 'aivm: this VM is made from a prepared image but has no seed, so host name, user and keys are not set'
exit 1
