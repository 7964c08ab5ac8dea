set -eu
fail() { printf '%s\n' "$1" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail 'switching cloud-init off needs root in the guest'
off=/etc/cloud/cloud-init.disabled
keep=/etc/cloud/cloud.cfg.d/99-aivm-keep.cfg
if [ ! -e "$off" ] && [ ! -e /var/lib/cloud/instance/boot-finished ] && [ ! -e /run/cloud-init/result.json ]; then
	fail 'the first boot of cloud-init is not finished'
fi
network=
for f in /etc/netplan/50-cloud-init.yaml /etc/systemd/network/10-cloud-init-*.network \
	/etc/network/interfaces.d/50-cloud-init* /etc/NetworkManager/system-connections/cloud-init-*.nmconnection; do
	if [ -s "$f" ]; then network=$f; fi
done
[ -n "$network" ] || fail 'the network configuration of cloud-init is missing, so the next boot would have no network'
[ -s /etc/ssh/ssh_host_ed25519_key ] || fail 'the host key /etc/ssh/ssh_host_ed25519_key is missing'
want='# Written by aivm after the first boot.
network: {config: disabled}
ssh_deletekeys: false
preserve_hostname: true
manual_cache_clean: true'
have=
if [ -f "$keep" ]; then have=$(cat "$keep"); fi
if [ "$have" != "$want" ] || [ ! -e "$off" ]; then
	mkdir -p /etc/cloud/cloud.cfg.d
	printf '%s\n' "$want" >"$keep.aivm"
	mv -f "$keep.aivm" "$keep"
	: >"$off"
	sync
fi
printf 'cloud-init off, network from %s\n' "$network"
