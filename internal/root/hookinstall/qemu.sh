#!/bin/sh
# aivm keeps the rules and folders of its VMs in place here.
# Without a manifest in that directory it does nothing.
dir=@MANIFESTS@
mark=@MARK@
definition() {
	xml=$(cat)
	[ -z "$xml" ] || return 0
	while IFS= read -r line || [ -n "$line" ]; do
		xml=$xml$line'
'
	done
}
run() {
	printf '%s\n' "$xml" | /usr/bin/env @PROGRAM@ @COMMAND@ qemu "$@"
}
case $2 in
prepare | start | started | stopped) ;;
*) exit 0 ;;
esac
for f in "$dir"/vm-*-"$1".json "$dir"/net-*.json; do
	[ -f "$f" ] && break
done
[ -f "$f" ] || exit 0
definition
case $xml in
*"$mark"*)
	run "$@"
	exit
	;;
"")
	for f in "$dir"/vm-*-"$1".json; do
		uid=${f#"$dir"/vm-}
		case ${uid%-"$1".json} in
		"" | *[!0-9]*) ;;
		*)
			run "$@"
			exit
			;;
		esac
	done
	exit 0
	;;
esac
for f in "$dir"/net-*.json; do
	net=${f##*/net-}
	net=${net%.json}
	case $xml in
	*" network="[\"\']"$net"[\"\']*)
		run "$@"
		exit
		;;
	esac
done
exit 0
