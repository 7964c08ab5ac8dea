l_new=@TEXT@
if [ -r @LIST@ ]; then
	while IFS= read -r l_l; do
		case $l_l in "folder "* | "inside "*) ;; *) continue ;; esac
		case "$l_new" in *" ${l_l#* }$nl"*) continue ;; esac
		l_l=${l_l#* }
		if [ "${l_l#* }" -ef "$dev/${l_l%% *}" ] && umount -- "${l_l#* }"; then umount_announced "${l_l%% *}"; fi
	done <@LIST@
fi
put() { # PATH TEXT
	[ -d "${1%/*}" ] || mkdir -p -- "${1%/*}" || return 1
	printf '%s' "$2" >"$1.new" && mv -f -- "$1.new" "$1"
}
reader() {
	l_v=
	[ -f @BOOT@ ] && { read -r l_v && IFS= read -r l_v; } <@BOOT@
	[ "$l_v" = @VERSION@ ] && [ -f @UNIT@ ] && [ -L @WANTS@ ] && return 0
	put @UNIT@ @UNIT_TEXT@ &&
		mkdir -p -- @WANTS_DIR@ && ln -sfn -- @UNIT@ @WANTS@ &&
		put @GUARD@ @GUARD_TEXT@ && chmod 0755 -- @GUARD@ &&
		put @GUARD_UNIT@ @GUARD_UNIT_TEXT@ && ln -sfn -- @GUARD_UNIT@ @GUARD_WANTS@ &&
		{ grep -qs '^GIT_DISCOVERY_ACROSS_FILESYSTEM=' /etc/environment || printf '%s' @ENVIRONMENT@ >>/etc/environment; } &&
		put @BOOT@ @BOOT_TEXT@ && chmod 0755 -- @BOOT@ || return 1
	# --no-block: the script does not wait for the guard; after the next boot systemd starts it.
	{ systemctl daemon-reload && systemctl restart --no-block aivm-folders-guard.service; } >/dev/null 2>&1 </dev/null &
}
@GROUPS@
l_most=
[ -r @MOST@ ] && read -r l_most <@MOST@
[ "$l_most" = @COUNT@ ] || put @MOST@ @COUNT@"$nl"
{ [ -d /etc/systemd/system ] && reader && put @LIST@ "$l_new"; } || echo "aivm-share-note list"
