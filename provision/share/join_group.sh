join_group() { # GID NAME: make the guest's user a member; a failure leaves only the group unused
	getent group "$1" || groupadd -g "$1" -- "$2" || groupadd -g "$1" -- "aivm-$1" || return 0
	l_name=$(getent group "$1")
	l_user=$(getent passwd @UID@)
	case ",${l_name##*:}," in *",${l_user%%:*},"*) return 0 ;; esac
	usermod -a -G "${l_name%%:*}" -- "${l_user%%:*}"
} >/dev/null 2>&1
