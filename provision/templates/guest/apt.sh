# Installs the packages in $PACKAGES with apt, in the VM.
set -eu
export DEBIAN_FRONTEND=noninteractive
command -v apt-get >/dev/null || { echo "the image has no apt-get: templates need Debian or Ubuntu" >&2; exit 1; }
opts="-o Acquire::Retries=3 -o Acquire::Languages=none -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=60"
# shellcheck disable=SC2086 # the options are words
if ! apt-get $opts -q update -o APT::Update::Error-Mode=any; then
	# Ubuntu before 22.10 does not know the option: then only an update that fetched nothing fails.
	apt-get $opts -q update
fi
# shellcheck disable=SC2086 # the packages are words
apt-get $opts -q -y --no-install-recommends -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io ${UPGRADE:+-o APT::Get::Upgrade=true} install $PACKAGES
if test -n "${UPGRADE:-}"; then
	# The kernel is the image's: a newer one would not be booted.
	# shellcheck disable=SC2086 # the options are words
	apt-get $opts -q -y --no-install-recommends -o Dpkg::Options::=--force-confold upgrade
fi
rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/*.bin
