#!/usr/bin/env bash
# The strict local gate: formatting, vet, staticcheck, shell syntax. Every
# check runs, also after one has failed, and any finding is a failure.
#
# usage: scripts/lint.sh [package pattern...]        (default: ./...)
#
# The tools are no dependencies of ours: pinned versions are built once into a
# cache (AIVM_LINT_CACHE, else XDG_CACHE_HOME, else ~/.cache), one directory a
# version, so that a new pin never meets an old binary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

gofumpt=mvdan.cc/gofumpt@v0.12.0
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

base=${AIVM_LINT_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or AIVM_LINT_CACHE}/.cache}/aivm-lint}
# A tool built by another Go may not read this one's packages.
base=$base/$(go env GOVERSION)

# tool PACKAGE@VERSION prints the path of the program, installed if missing. It
# is built aside and renamed: an interrupted build is never taken for a tool.
tool() {
  local package=${1%@*} version=${1#*@} dir temp
  local name=${package##*/}
  dir=$base/$name-$version
  if [[ ! -x $dir/$name ]]; then
    echo "lint: installing $1" >&2
    mkdir -p "$dir"
    temp=$(mktemp -d "$dir/.build.XXXXXX")
    if ! GOBIN=$temp GOFLAGS= go install "$1" >&2; then
      rm -rf "$temp"
      return 1
    fi
    mv -f "$temp/$name" "$dir/$name"
    rmdir "$temp"
  fi
  echo "$dir/$name"
}

failed=0
complain() {
  echo "lint: $*" >&2
  failed=1
}

if (($# == 0)); then set -- ./...; fi

gofumpt_bin=$(tool "$gofumpt")
staticcheck_bin=$(tool "$staticcheck")

# Tracked files and those about to be; what git ignores is nobody's source.
mapfile -d '' -t go_files < <(git ls-files -z --cached --others --exclude-standard -- '*.go')
mapfile -d '' -t scripts < <(git ls-files -z --cached --others --exclude-standard -- '*.sh' '.ci/*' 'scripts/*')
present=()
for f in "${go_files[@]}"; do
  if [[ -f $f ]]; then present+=("$f"); fi
done
if ((${#present[@]} == 0)); then
  complain "no Go files found: not in a checkout?"
else
  unformatted=$("$gofumpt_bin" -l "${present[@]}") || complain "gofumpt failed"
  if [[ -n $unformatted ]]; then complain $'not formatted (gofumpt -w FILE):\n'"$unformatted"; fi
fi

go vet "$@" || complain "go vet found something"
"$staticcheck_bin" "$@" || complain "staticcheck found something"

for f in "${scripts[@]}"; do
  [[ -f $f ]] || continue
  read -r first <"$f" || true
  case $f:$first in
    *.sh:* | *:'#!'*sh*) bash -n "$f" || complain "$f does not parse" ;;
  esac
done

exit "$failed"
