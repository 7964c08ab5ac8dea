#!/usr/bin/env bash
# Measures what aivm promises on real VMs and prints each figure beside its
# rival and its bar. About a quarter of an hour where CPUs are emulated. Goes
# on as root through sudo; the status is 0 if everything was measured, also if
# a bar is missed.
#
#   scripts/bench.sh [-short] [-only PART,...]     the parts: -help
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
	# The user's module cache is read, never written, by root.
	go mod download
	exec sudo -- env "PATH=$PATH" "GOMODCACHE=$(go env GOMODCACHE)" "GOPROXY=$(go env GOPROXY)" \
		"GOFLAGS=$(go env GOFLAGS)" GOCACHE=/var/cache/aivm-test/go-build \
		bash scripts/bench.sh "$@"
fi
scripts/deps.sh
command -v strace >/dev/null || apt-get -qq install --no-install-recommends strace >/dev/null
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
# Whoever ends this run waits until the bench has cleaned up with these programs.
trap : TERM INT
chmod 755 "$bin"
# As shipped: see `make build`.
go build -trimpath -ldflags=-s -o "$bin/aivm" ./cmd/aivm
go build -o "$bin/aivm-faulty" ./test/e2e/aivm-faulty
go build -o "$bin/code" ./test/fakecode
go build -o "$bin/bench" ./test/bench
# Without sudo's marks: aivm refuses to be started through it.
unset SUDO_UID SUDO_GID SUDO_USER SUDO_COMMAND
"$bin/bench" -bin "$bin" "$@"
