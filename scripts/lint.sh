#!/usr/bin/env bash
# Checks formatting, vet, staticcheck, unreachable code, shell and perl. Every check
# runs, even after one has failed, and any finding is a failure.
#
# usage: scripts/lint.sh [package pattern...]        (default: ./...)
#
# The tools are not in go.mod: pinned versions are built once into a cache
# (AIVM_LINT_CACHE, else XDG_CACHE_HOME, else ~/.cache), in one directory per
# version, so that a new pin never uses an old binary. Tools without a cache of
# their own are not run again on files that already passed unchanged.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

gofumpt=mvdan.cc/gofumpt@v0.12.0
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
deadcode=golang.org/x/tools/cmd/deadcode@v0.52.0

base=${AIVM_LINT_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or AIVM_LINT_CACHE}/.cache}/aivm-lint}
# A tool built with another Go version may not be able to read this one's packages.
base=$base/$(go env GOVERSION)

# tool PACKAGE@VERSION prints the path of the program, and installs it if missing.
# It is built in a temporary directory and renamed, so that an interrupted build is
# never used.
tool() {
  local package=${1%@*} version=${1#*@} dir temp
  local name=${package##*/}
  dir=$base/$name-$version
  if [[ ! -x $dir/$name ]]; then
    echo "lint: installing $1" >&2
    mkdir -p "$dir"
    temp=$(mktemp -d "$dir/.build.XXXXXX")
    if ! GOBIN=$temp GOFLAGS='' go install "$1" >&2; then
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

# passed CHECK VERSION FILE... prints the path of a mark file for these files with
# their present content; it exists if they passed the check.
passed() {
  local check=$1 version=$2
  shift 2
  printf '%s/passed/%s-%s\n' "$base" "$check" "$({ echo "$version"; sha256sum -- "$@"; } | sha256sum | cut -c1-32)"
}
mkdir -p "$base/passed"
find "$base/passed" -type f -mtime +30 -delete

all_packages=
if (($# == 0)); then
  set -- ./...
  all_packages=yes
fi

gofumpt_bin=$(tool "$gofumpt")
staticcheck_bin=$(tool "$staticcheck")
deadcode_bin=$(tool "$deadcode")

# present PATTERN... lists tracked and new files, without those git ignores.
present() { # PATTERN...
  local f
  git ls-files -z --cached --others --exclude-standard -- "$@" | while IFS= read -r -d '' f; do
    if [[ -f $f ]]; then printf '%s\0' "$f"; fi
  done
}
mapfile -d '' -t go_files < <(present '*.go')
mapfile -d '' -t candidates < <(present '*.sh' '.ci/*' 'scripts/*')
mapfile -d '' -t perls < <(present '*.pl')

# deadcode finds functions that no program of aivm and no test reaches. It needs
# the entire module, and runs in the background, parallel to the other checks.
if [[ $all_packages ]]; then
  deadcode_mark=$(passed deadcode "$deadcode $(go version)" go.mod go.sum "${go_files[@]}")
  deadcode_output=$(mktemp)
  trap 'rm -f "$deadcode_output"' EXIT
  if [[ ! -e $deadcode_mark ]]; then
    "$deadcode_bin" -test ./... >"$deadcode_output" 2>&1 &
    deadcode_pid=$!
  fi
fi

if ((${#go_files[@]} == 0)); then
  complain "no Go files found: not in a checkout?"
else
  unformatted=$("$gofumpt_bin" -l "${go_files[@]}") || complain "gofumpt failed"
  if [[ -n $unformatted ]]; then complain $'not formatted (gofumpt -w FILE):\n'"$unformatted"; fi
fi

go vet "$@" || complain "go vet found something"
"$staticcheck_bin" "$@" || complain "staticcheck found something"

# A script is either a program, whose first line names its shell, or a piece of a
# script for a guest's sh (go:embed), in which Go replaces @NAME@. A piece cannot
# contain shellcheck directives, since the guest gets its exact bytes.
programs=()
pieces=()
for f in "${candidates[@]}"; do
  first=
  read -r first <"$f" || true
  case $f:$first in
    *:'#!'*sh* | *.sh:'# shellcheck shell='*) programs+=("$f") ;;
    *.sh:*) pieces+=("$f") ;;
  esac
done
# Disabled in all pieces:
#   SC1007  "a= b=c" empties a
#   SC2015  "a && b || c": c is meant for the failure of either
#   SC2034  another piece uses it
#   SC2154  another piece sets it
#   SC3013  every Linux sh has "-ef", and POSIX.1-2024
everywhere=SC1007,SC2015,SC2034,SC2154,SC3013
# and in single ones:
declare -A excused=(
  [cloudinit/clonerun.sh]=SC1091           # the file is on the guest's seed
  [gitsync/compare/probe.sh]=SC2170        # @FEW@ is a number
  [gitsync/guestscript/collide.sh]=SC2016  # the inner shell expands it
  [gitsync/onlyinvm/insideone.sh]=SC2086   # the name of an object, or nothing
  [gitsync/onlyinvm/refs.sh]=SC2086        # names of objects, or nothing
  [provision/editors/launch.sh]=SC2164     # without a home it fails at the program
  [provision/share/watchers.sh]=SC2013        # numbers of devices
)
for f in "${!excused[@]}"; do
  [[ -f $f ]] || complain "the list of excused pieces names $f, which does not exist"
done
if ! command -v shellcheck >/dev/null; then
  complain "shellcheck is not installed, so no script was checked: sudo apt-get install shellcheck (scripts/deps.sh does it)"
else
  mark=$(passed shellcheck "$(shellcheck --version)" scripts/lint.sh "${programs[@]}" "${pieces[@]}")
  if [[ ! -e $mark ]]; then
    shell_failed=
    shellcheck -S style "${programs[@]}" || shell_failed=yes
    usual=()
    for f in "${pieces[@]}"; do
      if [[ ${excused[$f]-} ]]; then
        shellcheck -s sh -S style -e "$everywhere,${excused[$f]}" "$f" || shell_failed=yes
      else
        usual+=("$f")
      fi
    done
    shellcheck -s sh -S style -e "$everywhere" "${usual[@]}" || shell_failed=yes
    if [[ $shell_failed ]]; then complain "shellcheck found something"; else : >"$mark"; fi
  fi
fi
for f in "${perls[@]}"; do
  output=$(perl -c "$f" 2>&1) || complain "$f: $output"
done

if [[ ${deadcode_pid-} ]]; then
  if ! wait "$deadcode_pid"; then
    complain $'deadcode failed:\n'"$(cat "$deadcode_output")"
  elif [[ -s $deadcode_output ]]; then
    complain $'unreachable functions:\n'"$(cat "$deadcode_output")"
  else
    : >"$deadcode_mark"
  fi
fi

exit "$failed"
