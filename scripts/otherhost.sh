#!/usr/bin/env bash
# Runs tests with another Debian release's libvirt, QEMU, virtiofsd, nft, ssh and
# git: in a separate root file system made of that release's packages, in new
# mount, PID, network, IPC and UTS namespaces. Several runs can run in parallel,
# also with tests on this machine.
#
#   scripts/otherhost.sh RELEASE [suite...]      suites as in scripts/test.sh (default: e2e)
#   scripts/otherhost.sh RELEASE -- COMMAND...   any command, in a copy of the checkout
#
#   RUN=TestFirstVM/life     only these tests (a pattern for go test -run)
#   BACKEND=nftables the firewall backend of libvirt's networks, instead of iptables;
#                    the default of many distributions (libvirt 10.4 and newer)
#   FRESH=1          recreate the release's root
#
# RELEASE is bookworm, trixie, or here: this machine's own programs, with nothing
# to install.
#
# The packages are installed once; this is the only use of the network. Inside, the
# internet is a namespace with one web server. A run changes only copies, which are
# deleted at its end: the root, the checkout, the cache. On this machine it writes
# only Go's build cache. A user's run restarts itself as root through sudo.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
roots=/var/cache/aivm-test/roots
cache=/var/cache/aivm-test/aivm
# Where the checkout is mounted. With "here" it is the real path, since Go's build
# cache contains paths.
inside=/var/tmp/checkout
if [ "${1:-}" = here ] || [ "${1:-} ${3:-}" = "--enter here" ]; then inside=$top; fi

usage() {
	sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
	exit 2
}

# ensure_root RELEASE creates the release's root if it is missing or if deps.sh lists other
# packages now.
ensure_root() {
	local release=$1 root=$roots/$1 packages lock
	packages=$(bash "$top/scripts/deps.sh" --list "$release" | tr '\n' ',')
	exec {lock}>"$root.lock"
	flock "$lock"
	if [ -z "${FRESH:-}" ] && [ "$(cat "$root/etc/aivm-test-root" 2>/dev/null)" = "$packages" ]; then
		exec {lock}>&-
		return
	fi
	echo "== installing $root from packages: some minutes" >&2
	command -v mmdebstrap >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends mmdebstrap >/dev/null
	rm -rf --one-file-system "$root" "$root.new"
	if ! mmdebstrap --quiet --mode=root --variant=apt --include="$packages" "$release" "$root.new" >"$root.log" 2>&1; then
		tail -n 40 "$root.log" >&2
		rm -rf --one-file-system "$root.new"
		echo "$release could not be installed: see $root.log" >&2
		exit 1
	fi
	rm -rf "$root.new"/var/lib/apt/lists/* "$root.new"/var/cache/apt/*.bin
	printf '%s' "$packages" >"$root.new/etc/aivm-test-root"
	mv "$root.new" "$root"
	exec {lock}>&-
}

# skeleton ROOT creates the parts of this machine's root that a run may change;
# programs mounts the rest.
skeleton() {
	local root=$1 d
	mkdir -p "$root"/{proc,sys,dev,run,home} "$root"/var/{cache/libvirt,lib,log/libvirt,spool,mail}
	install -d -m 700 "$root/root"
	install -d -m 1777 "$root/tmp" "$root/var/tmp"
	ln -s /run "$root/var/run"
	ln -s /run/lock "$root/var/lock"
	cp -a /etc "$root/etc"
	rm -f "$root"/etc/libvirt/hooks/*.d/*aivm* "$root"/etc/libvirt/qemu/*.xml "$root"/etc/libvirt/qemu/*/*.xml "$root"/etc/libvirt/storage/*.xml
	rm -rf "$root"/etc/libvirt/*/*autostart* "$root"/etc/libvirt/*/*/autostart
	(cd /var/lib && find libvirt -maxdepth 2 -xdev -type d ! -path 'libvirt/aivm*' -print0 | tar -c --no-recursion --null -T - | tar -x -C "$root/var/lib")
	printf here >"$root/etc/aivm-test-root"
}

# show ROOT PATH... mounts these directories of this machine read-only in the root.
# It copies links and skips missing paths.
show() {
	local root=$1 d
	shift
	for d; do
		if [ -L "$d" ]; then
			cp -a "$d" "$root$d"
		elif [ -d "$d" ]; then
			mkdir -p "$root$d"
			mount --bind "$d" "$root$d"
			mount -o remount,bind,ro "$root$d"
		fi
	done
}

# programs ROOT mounts this machine's programs in the root. /usr/local/libexec is
# the root's own, since aivm installs itself there.
programs() {
	local root=$1 own=${1%/*}/usr-local d
	mkdir "$own"
	show "$root" /usr /opt /bin /sbin /lib /lib32 /lib64 /libx32 /var/lib/dpkg
	mount --bind "$own" "$root/usr/local"
	for d in /usr/local/*; do
		[ "$d" = /usr/local/libexec ] || show "$root" "$d"
	done
}

# copy_root RELEASE RUN makes a copy of the root for one run, with the files of this
# machine that the tests use.
copy_root() {
	local root=$roots/$1 run=$2 f
	if [ "$1" = here ]; then skeleton "$run/root"; else cp -a "$root" "$run/root"; fi
	mkdir -p "$(dirname "$run/root$inside")"
	# The checkout with its uncommitted files.
	git clone -q --no-hardlinks "$top" "$run/root$inside"
	find "$run/root$inside" -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +
	git -C "$top" ls-files -z --cached --others --exclude-standard |
		(cd "$top" && tar -c --null --ignore-failed-read --files-from=- 2>/dev/null) | tar -x -C "$run/root$inside"
	# Guest image and editor of an earlier run: hard links, since nothing writes to them.
	install -d -m 700 "$run/root$cache" "$run/root$cache/images" "$run/root$cache/code-server"
	for f in "$cache"/images/*.qcow2 "$cache"/code-server/*.tar.gz; do
		if [ -f "$f" ]; then ln "$f" "$run/root${f}"; fi
	done
	if [ -f "$cache/images/index.json" ]; then cp -p "$cache/images/index.json" "$run/root$cache/images/"; fi
	printf '127.0.0.1 localhost\n127.0.1.1 %s-tests\n::1 localhost\n' "$1" >"$run/root/etc/hosts"
	# The package mirror that the root and the guests name.
	grep -rhoE 'https?://[^/: ]+' "$run"/root/etc/apt/sources.list* | sed 's,.*//,203.0.113.80 ,' | sort -u >>"$run/root/etc/hosts"
	echo "nameserver 192.0.2.1" >"$run/root/etc/resolv.conf"
	echo "$1-tests" >"$run/root/etc/hostname"
	if [ -n "${BACKEND:-}" ]; then
		echo "firewall_backend = \"$BACKEND\"" >>"$run/root/etc/libvirt/network.conf"
		# With that backend libvirt has tc correct the checksums of DHCP answers, which
		# only old clients check, and starts no network if the kernel lacks act_csum.
		cat >"$run/root/usr/local/sbin/tc" <<-'END'
			#!/bin/sh
			/usr/sbin/tc "$@" && exit
			case "$*" in *"action csum"*) exit 0 ;; esac
			exit 1
		END
		chmod 755 "$run/root/usr/local/sbin/tc"
	fi
}

# enter RUN RELEASE COMMAND... runs in the new namespaces. It makes the root's mounts,
# enters it and runs the command there. It uses pivot_root, since in a chroot the
# kernel refuses new user namespaces, and so ID-mapped mounts.
enter() {
	local run=$1 release=$2 d goroot=$GOROOT mods=$GOMODCACHE builds=$GOCACHE n
	shift 2
	local root=$run/root
	hostname "$release-tests"
	mount --make-rprivate /
	mount --bind "$root" "$root"
	if [ "$release" = here ]; then programs "$root"; fi
	mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
	# Only the kernel settings of this network namespace can be changed.
	mount --bind "$root/proc/sys" "$root/proc/sys"
	mount -o remount,bind,ro "$root/proc/sys"
	mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
	mount -o remount,bind,rw "$root/proc/sys/net"
	mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
	mount -t tmpfs -o mode=755,nosuid tmpfs "$root/run"
	mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
	mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/net" "$root/run/lock"
	mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
	mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
	while read -r d n; do
		# shellcheck disable=SC2086 # two numbers
		mknod -m 666 "$root/dev/$d" c $n
	done <<-END
		null 1 3
		zero 1 5
		full 1 7
		random 1 8
		urandom 1 9
		tty 5 0
		net/tun 10 200
		fuse 10 229
		loop-control 10 237
	END
	# Without this device node QEMU emulates.
	if [ -e /dev/kvm ]; then mknod -m 660 "$root/dev/kvm" c 10 232; fi
	for n in $(seq 0 31); do mknod -m 660 "$root/dev/loop$n" b 7 "$n"; done
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	ln -s /proc/self/fd/0 "$root/dev/stdin"
	ln -s /proc/self/fd/1 "$root/dev/stdout"
	ln -s /proc/self/fd/2 "$root/dev/stderr"
	for d in "$goroot" "$mods" "$builds"; do
		mkdir -p "$root$d"
		mount --bind "$d" "$root$d"
	done
	for d in "$goroot" "$mods"; do mount -o remount,bind,ro "$root$d"; done
	ip link set lo up
	mkdir -p "$root/.host"
	cd "$root"
	pivot_root . .host
	umount -l /.host
	rmdir /.host
	cd "$inside"
	# The internet: a router with a DNS server, and behind it the mirror that the
	# guests use. Without an answer that a name has no IPv6 address, a resolver in a
	# guest repeats the query again and again.
	ip netns add internet
	ip link add uplink type veth peer name eth0 netns internet
	ip addr add 192.0.2.2/24 dev uplink
	ip link set uplink up
	ip route add default via 192.0.2.1
	ip netns exec internet sh -ec 'ip link set lo up; ip link set eth0 up
		ip addr add 192.0.2.1/24 dev eth0; ip addr add 203.0.113.80/32 dev lo'
	ip netns exec internet dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root \
		--listen-address=192.0.2.1 --bind-interfaces --no-resolv '--local=/#/' &
	ip netns exec internet socat TCP4-LISTEN:80,fork,reuseaddr 'EXEC:echo HTTP/1.0 404 Not Found' &
	# PID 1 stays a shell, which reaps orphans: daemons are orphans.
	env -i PATH="$goroot/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
		GOROOT="$goroot" GOMODCACHE="$mods" GOCACHE="$builds" GOPROXY=off GOTOOLCHAIN=local GOFLAGS="-buildvcs=false -count=1 ${GOFLAGS:-}" \
		RUN="${RUN:-}" AIVM_E2E="${AIVM_E2E:-}" "$@" &
	local rc=0
	wait $! || rc=$?
	exit "$rc"
}

if [ "${1:-}" = --enter ]; then
	shift
	enter "$@"
fi
case ${1:-} in
bookworm | trixie | here) ;;
*) usage ;;
esac
export GOROOT GOMODCACHE GOCACHE GOFLAGS
GOROOT=$(go env GOROOT) GOMODCACHE=$(go env GOMODCACHE) GOCACHE=$(go env GOCACHE) GOFLAGS=$(go env GOFLAGS)
if [ "$(id -u)" != 0 ]; then
	# Root reads the user's module cache and never writes to it.
	go mod download
	exec sudo -- env "PATH=$PATH" "GOMODCACHE=$GOMODCACHE" "GOFLAGS=$GOFLAGS" GOCACHE=/var/cache/aivm-test/go-build \
		"RUN=${RUN:-}" "FRESH=${FRESH:-}" "BACKEND=${BACKEND:-}" bash "$0" "$@"
fi
release=$1
shift
if [ "${1:-}" = -- ]; then
	shift
	command=("$@")
else
	[ "$#" -gt 0 ] || set -- e2e
	command=(bash scripts/test.sh "$@")
fi
# Inside there is no network, so download the modules first.
(cd "$top" && go mod download)
install -d -m 755 /var/cache/aivm-test "$GOCACHE"
install -d -m 700 "$roots"
# Delete the copies of killed runs: no process holds their lock.
for old in "$roots"/run-*; do
	if [ -d "$old" ] && flock -n "$old" true; then rm -rf --one-file-system "$old"; fi
done
[ "$release" = here ] || ensure_root "$release"
run=$(mktemp -d "$roots/run-$release-XXXXXX")
exec {held}<"$run"
flock "$held"
child=
# clean ends all processes inside, and then deletes the root.
# shellcheck disable=SC2317 # a trap calls it
clean() {
	if [ -n "$child" ]; then
		kill -KILL "$child" 2>/dev/null || true
		wait "$child" 2>/dev/null || true
	fi
	rm -rf --one-file-system "$run"
}
trap clean EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$run"
copy_root "$release" "$run"
unshare --mount --pid --net --ipc --uts --fork --kill-child=KILL -- bash "$0" --enter "$run" "$release" "${command[@]}" &
child=$!
rc=0
wait "$child" || rc=$?
child=
exit "$rc"
