# Written by aivm: mounts the folders of @LIST@ again after a boot.
set -u
LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 022
dev=@EXPORT@ tag=@TAG@
nl='
'
[ -r @LIST@ ] || exit 0
mkdir -p -- "$dev" && chmod 0700 -- "$dev" || exit 1
grep -qF " $dev " /proc/self/mountinfo || mount -t virtiofs -- "$tag" "$dev" || exit 1
cd "$dev" || exit 1
while IFS= read -r line; do
	case $line in *" ../own/"*) ;; *) continue ;; esac
	token=${line#* ../own/}
	token=${token%% *}
	grep -qF " @OWN@/$token " /proc/self/mountinfo && continue
	mkdir -p -- "../own/$token" && chmod 0700 -- ../own && mount -t virtiofs -- "$token" "../own/$token"
done <@LIST@
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
done <@LIST@ | sed -e 's/\\/\\134/g' -e 's/ /\\040/3g' -e 's/	/\\011/g' -e "s|^folder |$dev/|" -e 's/$/ none bind 0 0/' >"$dev.fstab"
[ ! -s "$dev.fstab" ] || mount -a -T "$dev.fstab"
rm -f -- "$dev.fstab"
