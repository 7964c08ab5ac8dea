#!/usr/bin/env bash
# Runs every fuzz target of the repository, two at a time, and prints a line for
# each: what was executed and how many inputs were new. An input that fails is
# kept in testdata/fuzz beside the target and is a test from then on.
#
#   scripts/fuzz.sh [SECONDS [PATTERN]]   each target for SECONDS (30); only
#                                         those whose name fits the pattern
#   scripts/fuzz.sh changed               5 seconds for the targets of packages
#                                         whose code or fuzz tests differ from what
#                                         scripts/fuzzed has sums of
#
# A run of all targets for 30 seconds or more that finds nothing writes
# scripts/fuzzed. Kept inputs are tests, which run with every other.
set -euo pipefail
cd "$(dirname "$0")/.."

# one PACKAGE TARGET SECONDS: in the background, so that two share the cores.
if [ "${1-}" = one ]; then
	pkg=$2 target=$3 seconds=$4 out=$(mktemp)
	trap 'rm -f "$out"' EXIT
	# One worker: go's own default would be as many as there are cores, for each
	# of the two. Minimizing what is merely new, by default a minute for each, is
	# cut short; what fails is small enough to read without it.
	rc=0
	timeout -k 10 $((seconds + 240)) go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 20x -parallel 1 "$pkg" >"$out" 2>&1 || rc=$?
	last=$(grep -a '^fuzz: elapsed: .*execs:' "$out" | tail -n 1 || true)
	execs=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' <<<"$last") new=$(sed -n 's/.*new interesting: \([0-9]*\).*/\1/p' <<<"$last")
	line="$(printf '%-34s %-18s' "$pkg" "$target") ${execs:-0} execs, ${new:-0} new"
	# Go 1.26 may call the end of the time a failure of the target
	# (golang/go#75804, fixed in 1.27): then there is that line, and no input.
	if [ "$rc" = 1 ] && grep -aqxE ' +context deadline exceeded' "$out" && ! grep -aqE 'Failing input|panic|fatal error|^ +[a-z0-9_]+_test\.go' "$out"; then
		rc=0
	fi
	if [ "$rc" = 0 ]; then
		echo "ok    $line"
		exit 0
	fi
	# In one write, so that two do not mix.
	echo "FAIL  $line (status $rc)
$(grep -av '^fuzz: elapsed' "$out" | tail -n 60)"
	exit 1
fi

# Every target, as "PACKAGE TARGET".
targets=$(grep -rnoE '^func Fuzz[A-Za-z0-9_]*\(f \*testing\.F\)' --include='*_test.go' . |
	sed -E 's|^(.*)/[^/]*:[0-9]+:func (Fuzz[A-Za-z0-9_]*).*|\1 \2|' | sort -u)
sums() {
	local pkg
	cut -d' ' -f1 <<<"$targets" | sort -u | while read -r pkg; do
		# Not of tests that fuzz nothing.
		echo "$pkg $(find "$pkg" -maxdepth 1 -name '*.go' | LC_ALL=C sort | while read -r file; do
			[[ $file != *_test.go ]] || grep -q '^func Fuzz' "$file" || continue
			cat "$file"
		done | sha256sum | cut -c1-32)"
	done
}
seconds=30 all=$targets
if [ "${1-}" = changed ]; then
	seconds=5
	changed=$(sums | grep -vxFf <(cat scripts/fuzzed 2>/dev/null) | cut -d' ' -f1 || true)
	targets=$(awk 'NR == FNR { pkg[$1]; next } $1 in pkg' <(echo "$changed") <(echo "$targets"))
	if [ -z "$targets" ]; then
		echo "no package with fuzz targets has changed"
		exit
	fi
elif [ $# -gt 0 ]; then
	seconds=$1
	[ $# -lt 2 ] || targets=$(grep -E -- "$2" <<<"$targets") || {
		echo "no fuzz target fits $2" >&2
		exit 2
	}
fi
count=$(wc -l <<<"$targets")
began=$SECONDS status=0
# Built first, once for each package, so that building is none of their time.
cut -d' ' -f1 <<<"$targets" | sort -u | xargs -n 1 -P 2 go test -run '^$' -fuzz '^$' >/dev/null 2>&1 || true
echo "$count fuzz targets, $seconds s each, two at a time; building them took $((SECONDS - began)) s"
awk -v s="$seconds" '{ print $1, $2, s }' <<<"$targets" | xargs -L 1 -P 2 bash "$0" one || status=1
echo "fuzzing: $((SECONDS - began)) s"
if [ "$status" = 0 ] && [ "$seconds" -ge 30 ] && [ "$targets" = "$all" ]; then sums >scripts/fuzzed; fi
exit $status
