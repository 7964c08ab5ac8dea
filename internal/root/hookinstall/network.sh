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
	printf '%s\n' "$xml" | /usr/bin/env @PROGRAM@ @COMMAND@ network "$@"
}
f=$dir/net-$1.json
[ -f "$f" ] || exit 0
definition
case $xml in
*"$mark"*) ;;
*"<uuid>"*)
	uuid=$(printf '%s\n' "$xml" | sed -n 's|.*<uuid>\(.*\)</uuid>.*|\1|p' | head -n 1)
	grep -qF -e "$uuid" "$f" || grep -qF -e "$mark" "@NETWORKS@/$1.xml" || {
		run "$@"
		exit 0
	}
	;;
esac
run "$@"
