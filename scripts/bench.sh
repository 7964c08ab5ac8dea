#!/usr/bin/env bash
# Measures aivm's performance goals on real VMs and prints each figure with its
# reference and its limit. Takes about a quarter of an hour where CPUs are
# emulated. Restarts itself as root through sudo. The exit status is 0 if
# everything was measured, even if a limit is exceeded.
#
#   scripts/bench.sh [-short] [-only PART,...]     -help lists the parts
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
	# Root reads the user's module cache and never writes to it.
	go mod download
	exec sudo -- env "PATH=$PATH" "GOMODCACHE=$(go env GOMODCACHE)" "GOPROXY=$(go env GOPROXY)" \
		"GOFLAGS=$(go env GOFLAGS)" GOCACHE=/var/cache/aivm-test/go-build \
		bash scripts/bench.sh "$@"
fi
scripts/deps.sh
command -v strace >/dev/null || apt-get -qq install --no-install-recommends strace >/dev/null
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
# On a signal, wait for the bench: it still needs these programs to clean up.
trap : TERM INT
chmod 755 "$bin"
# Built as the released program: see `make build`.
go build -trimpath -ldflags=-s -o "$bin/aivm" ./cmd/aivm
go build -o "$bin/aivm-faulty" ./test/e2e/aivm-faulty
go build -o "$bin/code" ./test/fakecode
go build -o "$bin/bench" ./test/bench
# aivm refuses to run if sudo's variables are set.
unset SUDO_UID SUDO_GID SUDO_USER SUDO_COMMAND
"$bin/bench" -bin "$bin" "$@"
