aivm_line() {
	[ -r "$2" ] || return 0
	printf '%s ' "$1"
	while IFS= read -r aivm_l || [ -n "$aivm_l" ]; do printf '%s' "$aivm_l"; done <"$2"
	printf '\n'
}
command -v cloud-init >/dev/null 2>&1 && printf 'installed\n'
{ [ -e /etc/cloud/cloud-init.disabled ] || [ -e /run/cloud-init/disabled ]; } && printf 'disabled\n'
[ -e /var/lib/cloud/instance/boot-finished ] && printf 'finished\n'
aivm_line status /run/cloud-init/status.json
aivm_line result /run/cloud-init/result.json
printf 'end\n'
