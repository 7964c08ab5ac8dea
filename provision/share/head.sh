set -uf
LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 022
dev=@EXPORT@ tag=@TAG@ own=@OWN@ bad=0 wrong= lines=
nl='
'
say() { # REASON TOKEN PATH: report a failure and continue with the other folders
	echo "aivm-share-error $1 $2 $3"
	bad=9 wrong="$wrong$nl$3$nl"
}
die() { say "$@"; exit 9; }
iswrong() { case $wrong in *"$nl$1$nl"*) return 0 ;; esac; return 1; }
top() { # POINT: set t_type, t_src and t_root of the topmost mount there
	t_type=
	t_all=$(grep -F -- " $1 " /proc/self/mountinfo)
	while [ -n "$t_all" ]; do
		t_l=${t_all%%"$nl"*}
		case $t_all in *"$nl"*) t_all=${t_all#*"$nl"} ;; *) t_all= ;; esac
		t_l=${t_l#* * * }
		t_r=${t_l%% *} t_l=${t_l#* }
		[ "${t_l%% *}" = "$1" ] || continue
		t_root=$t_r t_l=${t_l#* - }
		t_type=${t_l%% *} t_l=${t_l#* }
		t_src=${t_l%% *}
	done
	[ -n "$t_type" ]
}
is_share() { # TOKEN: the mount of top is virtiofs of the shared device, of the token's own device, or an announced submount
	[ "$t_type" = virtiofs ] && { [ "$t_src" = "$tag" ] || [ "$t_src" = "$1" ] || [ "$t_src" = none ]; }
}
umount_announced() { # TOKEN: unmount what the kernel mounted by itself for it
	if top "$dev/$1" && [ "$t_type $t_src" = "virtiofs none" ]; then umount -- "$dev/$1"; fi
}
device() {
	if top "$dev"; then
		is_share - || die foreign - "$dev"
		return 0
	fi
	mkdir -p -- "$dev" && chmod 0700 -- "$dev" || die make - "$dev"
	mount -t virtiofs -- "$tag" "$dev" || die device - "$dev"
}
mount_devices() { # TOKEN...: mount the own device of each; a new one may take a moment to appear
	mkdir -p -- "$own" && chmod 0700 -- "$own" || die make - "$own"
	for g_t; do
		top "$own/$g_t" && continue
		mkdir -p -- "$own/$g_t" || { say make "$g_t" "$own/$g_t"; continue; }
		n=0
		until mount -t virtiofs -- "$g_t" "$own/$g_t" 2>/dev/null; do
			n=$((n + 1))
			[ "$n" -lt 60 ] || { say own "$g_t" "$own/$g_t"; break; }
			sleep 0.2
		done
	done
}
drop() { # TOKEN DIR POINT: unmount aivm's mounts from DIR
	n=0
	while top "$3"; do
		is_share "$1" || { say foreign "$1" "$2"; return 1; }
		n=$((n + 1))
		[ "$n" -lt 32 ] && umount -- "$2" || { say busy "$1" "$2"; return 1; }
	done
}
make_dirs() { # DIR...: create each that is missing; parents come first
	for o_d; do
		if [ -L "$o_d" ]; then
			say link - "$o_d"
		elif [ -d "$o_d" ]; then
			:
		elif [ -e "$o_d" ]; then
			say file - "$o_d"
		elif iswrong "${o_d%/*}"; then
			wrong="$wrong$nl$o_d$nl"
		elif mkdir -m 0755 -- "$o_d"; then
			[ -O "${o_d%/*}/" ] || chown --reference="${o_d%/*}/" -- "$o_d"
		else
			say make - "$o_d"
		fi
	done
}
allow_walk() { # DIR...: let the guest's user enter each that exists
	for p_d; do
		s=$(stat -c '%u %g %f' -- "$p_d" 2>/dev/null) || continue
		s_uid=${s%% *} s=${s#* }
		s_gid=${s%% *} s_mode=$((0x${s#* }))
		[ $((s_mode & 61440)) = 16384 ] || continue
		if [ "$s_uid" = @UID@ ]; then
			[ $((s_mode & 64)) -ne 0 ] || chmod u+x -- "$p_d" || say make - "$p_d"
		elif [ "$s_gid" = @UID@ ]; then
			[ $((s_mode & 8)) -ne 0 ] || chmod g+x -- "$p_d" || say make - "$p_d"
		else
			[ $((s_mode & 1)) -ne 0 ] || chmod go+x -- "$p_d" || say make - "$p_d"
		fi
	done
}
check_shared() { # TOKEN DIR...: directories in another shared folder must exist; they are never created or changed
	t_t=$1
	shift
	for t_d; do
		if [ -L "$t_d" ]; then
			say link "$t_t" "$t_d"
		elif [ -d "$t_d" ]; then
			continue
		elif [ -e "$t_d" ]; then
			say file "$t_t" "$t_d"
		else
			say inside "$t_t" "$t_d"
		fi
		return 1
	done
}
await() { # LINES PATH...: wait for these inodes; the guest may cache the old ones for a second
	a_want=$1 n=0
	shift
	while a_have=$(stat -c '%i %n' -- "$@" 2>/dev/null); [ "$a_have" != "$a_want" ]; do
		n=$((n + 1))
		[ "$n" -lt 50 ] || break
		sleep 0.1
	done
}
empty() { # DIR: it holds directories only, and no file
	set +f
	for e in "$1"/* "$1"/.[!.]* "$1"/..?*; do
		if [ -e "$e" ] || [ -L "$e" ]; then
			set -f
			[ -z "$(find "$1" -xdev -mindepth 1 ! -type d -print -quit 2>/dev/null)" ]
			return
		fi
	done
	set -f
}
folder() { # TOKEN DIR POINT INODE FROM: check a folder and queue it for mounts
	iswrong "$2" && return 0
	case "$nl$a_have$nl" in
	*"$nl$4 $5$nl"*) ;;
	*)
		say token "$1" "$5"
		return 0
		;;
	esac
	# DIR may be the folder itself, seen through a shared parent: mounting it hides
	# nothing. Its device number may differ then (announced submount); 65735546 is the
	# file system type of FUSE.
	[ "$2" -ef "$5" ] || empty "$2" || [ "$(stat -f -c %t -- "$2") $(stat -c %i -- "$2")" = "65735546 $4" ] ||
		{ say full "$1" "$2"; return 0; }
	lines="$lines$5 $3 none bind 0 0$nl"
}
mounts() { # mount all queued folders with one process
	[ -n "$lines" ] || return 0
	if printf '%s' "$lines" >"$dev.fstab"; then
		mount -a -T "$dev.fstab"
	fi
	rm -f -- "$dev.fstab"
	lines=
}
link() { # PATH DIR: link the path given to attach to the folder
	iswrong "${1%/*}" || [ -e "$1" ] || [ -L "$1" ] || ln -s -- "$2" "$1"
}
