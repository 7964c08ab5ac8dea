users() { # TOKEN DIR PATTERN: print the processes that use the folder
	set +f
	{
		find /proc/[0-9]*/cwd /proc/[0-9]*/root /proc/[0-9]*/exe /proc/[0-9]*/fd -maxdepth 1 '(' -lname "$3" -o -lname "$3/*" -o -lname "$3 (deleted)" ')' -print
		grep -lF -- " $2/" /proc/[0-9]*/maps
	} 2>/dev/null | cut -d/ -f3 | sort -nu | head -n 20 | while read -r h_pid; do
		echo "aivm-share-held $1 $h_pid $(cat "/proc/$h_pid/comm" 2>/dev/null)"
	done
	set -f
}
release() { # TOKEN DIR POINT PATTERN: unmount the folder
	n=0
	while top "$3" && is_share "$1"; do
		n=$((n + 1))
		[ "$n" -lt 32 ] && umount -- "$2" && continue
		users "$1" "$2" "$4"
		die busy "$1" "$2"
	done
	umount_announced "$1"
}
umount_device() { # TOKEN: unmount its own device from OwnMounts
	top "$own/$1" && is_share "$1" || return 0
	umount -- "$own/$1" && rmdir -- "$own/$1" || die busy "$1" "$own/$1"
}
