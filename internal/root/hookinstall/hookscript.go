package hookinstall

import (
	"fmt"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/rootfile"
)

// scriptText returns the hook of one kind, a shell script. It decides by
// itself whether the object is one of aivm's, and starts the program only
// then: whatever is wrong with the program, what is not aivm's starts. For
// aivm's own it fails if the program does, since they must not start without
// their walls.
//
// The object's XML is read as text, in which libvirt escapes what names and
// descriptions hold. A definition may be megabytes long, so cat reads it; the
// shell, which takes byte by byte, does where cat may not run.
//
// Through env, because AppArmor's profile of libvirtd lets a hook run programs
// of /usr/bin unconfined and none of /usr/local.
func scriptText(kind string) string {
	body := map[string]string{"network": networkScript, "qemu": qemuScript}[kind]
	if body == "" {
		return answerScript()
	}
	return fmt.Sprintf(`#!/bin/sh
%s
# Without a manifest in that directory it does nothing.
dir=%s
mark=%s
definition() {
	xml=$(cat)
	[ -z "$xml" ] || return 0
	while IFS= read -r line || [ -n "$line" ]; do
		xml=$xml$line'
'
	done
}
run() {
	printf '%%s\n' "$xml" | /usr/bin/env %s %s %s "$@"
}
`, hookMark, rootfile.ManifestDir, definition.MarkSpace, rootfile.HookProgram, rootfile.HookCommand, kind) + body
}

// A network of that name may be somebody else's: then the program is told, to
// take away what is still there of aivm's, and its failure is ignored.
const networkScript = `f=$dir/net-$1.json
[ -f "$f" ] || exit 0
definition
case $xml in
*"$mark"*) ;;
*"<uuid>"*)
	uuid=$(printf '%s\n' "$xml" | sed -n 's|.*<uuid>\(.*\)</uuid>.*|\1|p' | head -n 1)
	grep -qF -e "$uuid" "$f" || grep -qF -e "$mark" "` + definition.NetworkDir + `/$1.xml" || {
		run "$@"
		exit 0
	}
	;;
esac
run "$@"
`

// A VM is aivm's by its mark, or because it is on a network that has a wall. Of
// one that nothing is known of, only because it has a manifest.
const qemuScript = `case $2 in
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
`
