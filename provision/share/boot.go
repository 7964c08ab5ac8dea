package share

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// What aivm leaves in a guest so that a reboot brings the folders back without
// aivm: a list, a script that mounts what is on it, and a systemd unit that
// runs the script before anybody can log in.
const (
	bootListPath = "/var/lib/aivm/folders"
	bootPath     = "/usr/local/sbin/aivm-folders"
	unitPath     = "/etc/systemd/system/aivm-folders.service"
	wantsPath    = "/etc/systemd/system/multi-user.target.wants/aivm-folders.service"
)

// GuestFiles are the files aivm puts into a guest for its folders.
func GuestFiles() []string {
	return []string{bootListPath, bootPath, unitPath, wantsPath, mostPath, guardPath, guardUnitPath, guardWantsPath}
}

// bootUnit is started after systemd-tmpfiles-setup (basic.target is after it):
// a folder below /tmp must not be there when /tmp is cleaned. pam_nologin keeps
// everybody but root out until systemd-user-sessions has run.
const bootUnit = `# Written by aivm.
[Unit]
Description=Folders shared with this VM by aivm
ConditionPathExists=` + bootListPath + `
After=local-fs.target systemd-tmpfiles-setup.service
Before=systemd-user-sessions.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=` + bootPath + `
TimeoutStartSec=60

[Install]
WantedBy=multi-user.target
`

// bootScript mounts what is on the list and really there: a token that nothing
// is bound to on the host is a directory without any rights. Two programs do
// the work, stat and mount, whatever the number of folders. Nothing in the
// guest is hidden by it but directories without files.
const bootScript = `# Written by aivm: mounts the folders of ` + bootListPath + ` again after a boot.
set -u
LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 022
dev=` + ExportMount + ` tag=` + FSTag + `
nl='
'
[ -r ` + bootListPath + ` ] || exit 0
mkdir -p -- "$dev" && chmod 0700 -- "$dev" || exit 1
grep -qF " $dev " /proc/self/mountinfo || mount -t virtiofs -- "$tag" "$dev" || exit 1
cd "$dev" || exit 1
while IFS= read -r line; do
	case $line in *" ../own/"*) ;; *) continue ;; esac
	token=${line#* ../own/}
	token=${token%% *}
	grep -qF " ` + OwnMounts + `/$token " /proc/self/mountinfo && continue
	mkdir -p -- "../own/$token" && chmod 0700 -- ../own && mount -t virtiofs -- "$token" "../own/$token"
done <` + bootListPath + `
have=$(stat -c '%f %n' -- * ../own/* 2>/dev/null)
empty() {
	for e in "$1"/* "$1"/.[!.]* "$1"/..?*; do
		[ -e "$e" ] || [ -L "$e" ] || continue
		[ -z "$(find "$1" -xdev -mindepth 1 ! -type d -print -quit 2>/dev/null)" ]
		return
	done
}
while IFS= read -r line; do
	case $line in "folder "* | "inside "*) ;; *) continue ;; esac
	kind=${line%% *} line=${line#* }
	token=${line%% *} dst=${line#* }
	case "$nl$have$nl" in
	*"${nl}4000 $token$nl"*) continue ;;
	*" $token$nl"*) ;;
	*) continue ;;
	esac
	if [ "$kind" = folder ]; then
		[ -d "$dst" ] || mkdir -p -- "$dst" || continue
		if ! [ "$dst" -ef "$token" ] && ! empty "$dst"; then
			echo "not mounted, there are files in it: $dst" >&2
			continue
		fi
	fi
	printf 'folder %s %s\n' "$token" "$dst"
done <` + bootListPath + ` | sed -e 's/\\/\\134/g' -e 's/ /\\040/3g' -e 's/	/\\011/g' -e "s|^folder |$dev/|" -e 's/$/ none bind 0 0/' >"$dev.fstab"
[ ! -s "$dev.fstab" ] || mount -a -T "$dev.fstab"
rm -f -- "$dev.fstab"
`

// environment lets git in the guest find its repository across the mounts that
// an announced directory of a protected folder is (announced.go): it stops at
// the first file system boundary otherwise, and has no setting but this. sshd
// reads the file at every login (pam_env).
const environment = `# aivm: a shared folder may hold mounts
GIT_DISCOVERY_ACROSS_FILESYSTEM=1
`

// bootFile is the script as it is written: its second line tells versions apart
// without a program being started.
func bootFile() (version, text string) {
	sum := sha256.Sum256([]byte(bootUnit + bootScript + guardUnit + guardScript + environment))
	version = "# version " + hex.EncodeToString(sum[:8])
	return version, "#!/bin/sh\n" + version + "\n" + bootScript
}

// list is what the guest mounts at its next boot. The mark stands for all that
// was written, script and unit too, so that a newer aivm renews them.
type list struct {
	text, mark, version, script string
	most                        int // inodes the guest may keep
}

// bootList makes the list, parents before what lies in them.
func bootList(atts []Attachment) list {
	var b strings.Builder
	for _, a := range atts {
		kind := "folder"
		if slices.ContainsFunc(atts, func(o Attachment) bool { return below(a.GuestDst, o.GuestDst) }) {
			kind = "inside"
		}
		fmt.Fprintf(&b, "%s %s %s\n", kind, a.rel(), a.GuestDst)
	}
	version, script := bootFile()
	sum := sha256.Sum256([]byte(version + b.String()))
	mark := "# aivm " + hex.EncodeToString(sum[:16])
	return list{text: mark + "\n" + b.String(), mark: mark, version: version, script: script}
}

// install writes the list and how much the guard lets the guest keep in its
// caches, which is no part of the digest: it is not asked for on every run.
// What reads it comes first, the list last: its mark says that the rest is
// there. What the list before had and this one has not is taken off first, if
// it is still mounted. A guest whose disk is full or read-only has its folders
// all the same, until it restarts.
func (l list) install() string {
	return `l_new=` + quote(l.text) + `
if [ -r ` + bootListPath + ` ]; then
	while IFS= read -r l_l; do
		case $l_l in "folder "* | "inside "*) ;; *) continue ;; esac
		case "$l_new" in *" ${l_l#* }$nl"*) continue ;; esac
		l_l=${l_l#* }
		if [ "${l_l#* }" -ef "$dev/${l_l%% *}" ] && umount -- "${l_l#* }"; then forget "${l_l%% *}"; fi
	done <` + bootListPath + `
fi
put() { # PATH TEXT
	[ -d "${1%/*}" ] || mkdir -p -- "${1%/*}" || return 1
	printf '%s' "$2" >"$1.new" && mv -f -- "$1.new" "$1"
}
reader() {
	l_v=
	[ -f ` + bootPath + ` ] && { read -r l_v && IFS= read -r l_v; } <` + bootPath + `
	[ "$l_v" = ` + quote(l.version) + ` ] && [ -f ` + unitPath + ` ] && [ -L ` + wantsPath + ` ] && return 0
	put ` + unitPath + ` ` + quote(bootUnit) + ` &&
		mkdir -p -- ` + path.Dir(wantsPath) + ` && ln -sfn -- ` + unitPath + ` ` + wantsPath + ` &&
		put ` + guardPath + ` ` + quote(guardScript) + ` && chmod 0755 -- ` + guardPath + ` &&
		put ` + guardUnitPath + ` ` + quote(guardUnit) + ` && ln -sfn -- ` + guardUnitPath + ` ` + guardWantsPath + ` &&
		{ grep -qs '^GIT_DISCOVERY_ACROSS_FILESYSTEM=' /etc/environment || printf '%s' ` + quote(environment) + ` >>/etc/environment; } &&
		put ` + bootPath + ` ` + quote(l.script) + ` && chmod 0755 -- ` + bootPath + ` || return 1
	# Nobody waits for it; after the next boot it is started by itself.
	{ systemctl daemon-reload && systemctl restart --no-block aivm-folders-guard.service; } >/dev/null 2>&1 </dev/null &
}
l_most=
[ -r ` + mostPath + ` ] && read -r l_most <` + mostPath + `
[ "$l_most" = ` + strconv.Itoa(l.most) + ` ] || put ` + mostPath + ` ` + strconv.Itoa(l.most) + `"$nl"
{ [ -d /etc/systemd/system ] && reader && put ` + bootListPath + ` "$l_new"; } || echo "aivm-share-note list"`
}
