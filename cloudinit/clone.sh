set -eu
host=@HOST@ user=@USER@
printf '%s\n' "$host" >/etc/hostname
printf '%s\n' "$host" >/proc/sys/kernel/hostname
printf '127.0.1.1 %s\n' "$host" >>/etc/hosts
entry() {
	home= group= other=
	while IFS=: read -r name _ uid gid _ dir _; do
		if [ "$name" = "$user" ]; then home=$dir group=$gid; fi
		if [ "$uid" = @UID@ ]; then other=$name; fi
	done </etc/passwd
}
entry
if [ -z "$home" ]; then
	if [ -n "$other" ]; then
		usermod -l "$user" -d "/home/$user" -m "$other"
		groupmod -n "$user" "$other" || true
	else
		useradd -m -U -u @UID@ -s /bin/bash "$user"
	fi
	entry
fi
grep -q "^$user:!" /etc/shadow || usermod -L "$user"
umask 0337
printf '%s\n' @SUDO@ >/etc/sudoers.d/90-cloud-init-users
umask 077
[ -d "$home/.ssh" ] || mkdir -p "$home/.ssh"
printf '%s\n' @KEYS@ >"$home/.ssh/authorized_keys"
chown "$user:$group" "$home/.ssh" "$home/.ssh/authorized_keys"
for key in /etc/ssh/ssh_host_*; do
	[ ! -e "$key" ] || rm -f "$key"
done
printf '%s\n' @PRIVATE@ >/etc/ssh/ssh_host_ed25519_key
umask 022
printf '%s\n' @PUBLIC@ >/etc/ssh/ssh_host_ed25519_key.pub
[ -d /etc/ssh/sshd_config.d ] || mkdir -p /etc/ssh/sshd_config.d
printf '%s\n' @SSHD@ >/etc/ssh/sshd_config.d/10-aivm.conf
