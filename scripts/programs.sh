#!/usr/bin/env bash
# Builds the agent of one-shot VMs for each architecture into internal/program, where
# aivm embeds it. The same sources and the same Go give the same bytes.
#
# usage: scripts/programs.sh [ARCH...]          (default: amd64 arm64)
#        scripts/programs.sh --to DIR [ARCH...]  builds into DIR, uncompressed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

to=
if [[ ${1-} == --to ]]; then
  to=$2
  shift 2
fi
if (($# == 0)); then set -- amd64 arm64; fi

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
for arch; do
  # The language version and the options are all that may differ between two machines:
  # set them, so that nothing of the environment gets into the program.
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 GOFLAGS='' GOEXPERIMENT='' GOWORK=off \
    go build -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o "$temp/agent" ./internal/guestd/agent/cmd
  if [[ -n $to ]]; then
    mv "$temp/agent" "$to/agent-$arch"
  else
    sha256sum "$temp/agent" | cut -d ' ' -f 1 >"$temp/agent.sha256"
    mv "$temp/agent.sha256" "internal/program/agent-$arch.sha256"
    gzip -9n <"$temp/agent" >"$temp/agent.gz"
    mv "$temp/agent.gz" "internal/program/agent-$arch.gz"
  fi
done
