/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/60-aivm.conf ||
	/lib/systemd/systemd-sysctl /etc/sysctl.d/60-aivm.conf
conf=/etc/updatedb.conf
if [ -f "$conf" ] && ! grep -Eq '^[[:space:]]*PRUNEFS[[:space:]]*=.*[" ]virtiofs[" ]' "$conf"; then
	if grep -Eq '^[[:space:]]*PRUNEFS[[:space:]]*=[[:space:]]*"' "$conf"; then
		sed -E -i 's/^([[:space:]]*PRUNEFS[[:space:]]*=[[:space:]]*")/\1virtiofs /' "$conf"
	else
		printf '%s\n' 'PRUNEFS="virtiofs"' >>"$conf"
	fi
fi
[ -s /etc/default/locale ] || printf '%s\n' LANG=C.UTF-8 >/etc/default/locale
: >/etc/cloud/cloud-init.disabled
true
