# Removes what identifies the VM or belongs to setup, before the template is saved.
set -u
rm -rf /root/.aivm-setup /root/.npm /root/.cache /root/.bash_history /usr/sbin/policy-rc.d
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
: > /etc/machine-id
rm -rf /var/lib/cloud
if test -d /etc/cloud; then touch /etc/cloud/cloud-init.disabled; fi
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /var/cache/apt/*.bin
find /var/log -xdev -type f -exec truncate -s 0 {} +
find /tmp /var/tmp -xdev -mindepth 1 -delete
rm -f /root/.ssh/authorized_keys /root/.ssh/known_hosts* /etc/sudoers.d/90-cloud-init-users /var/lib/dhcp/*.leases
sync
exit 0
