#!/usr/bin/env bash
# Installs the packages the tests need, and starts libvirt on a host without
# systemd. Run as root. Does nothing for what is already installed.
#
#   scripts/deps.sh                    on this machine
#   scripts/deps.sh --list RELEASE     prints the packages of a test root file system
set -euo pipefail
packages=(
	# what aivm itself needs (provision/host)
	qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-daemon-driver-qemu
	dnsmasq-base nftables iptables iproute2 openssh-client
	mmdebstrap extlinux syslinux-common fdisk e2fsprogs
	# what the tests inspect the results with
	libvirt-clients libxml2-utils cloud-init git rsync sudo procps util-linux
	python3-yaml genisoimage socat gcc libc6-dev
	# a browser for the real code-server
	chromium
)
if [ "${1:-}" = --list ]; then
	# QEMU 8 removed the C virtiofsd, so newer releases need the package.
	[ "$2" = bookworm ] || packages+=(virtiofsd)
	printf '%s\n' "${packages[@]}" ca-certificates passwd hostname
	exit
fi
# scripts/lint.sh checks shell scripts with it
packages+=(shellcheck)
# code-server is built from its npm package
packages+=(build-essential python3 pkg-config libkrb5-dev libsecret-1-dev)
command -v npm >/dev/null || packages+=(npm)
# A test root (scripts/otherhost.sh) has all packages, and no network.
[ ! -e /etc/aivm-test-root ] || packages=()
missing=()
for p in "${packages[@]}"; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ "${#missing[@]}" -gt 0 ]; then
	echo "installing: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ -d /run/systemd/system ]; then
	systemctl start libvirtd
else
	virsh -c qemu:///system version >/dev/null 2>&1 || {
		pgrep -x virtlogd >/dev/null || virtlogd -d
		pgrep -x libvirtd >/dev/null || libvirtd -d
		for _ in $(seq 100); do
			virsh -c qemu:///system version >/dev/null 2>&1 && break
			sleep 0.1
		done
	}
fi
virsh -c qemu:///system version >/dev/null
