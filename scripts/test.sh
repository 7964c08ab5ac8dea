#!/usr/bin/env bash
# Runs all tests and prints the seconds of each suite and the totals. Started
# as a user it continues as root through sudo: mounts, users and VMs need it.
#
#   scripts/test.sh [suite...]     suites: lint unit script fuzz e2e oneshot (default: all six), long
#   RUN=PATTERN                    only these tests of them, as of go test -run
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
	# The user's module cache is read, never written, by root.
	go mod download
	exec sudo -- env "PATH=$PATH" "GOMODCACHE=$(go env GOMODCACHE)" "GOPROXY=$(go env GOPROXY)" \
		"GOFLAGS=$(go env GOFLAGS)" GOCACHE=/var/cache/aivm-test/go-build "AIVM_TEST_USER=$(id -un)" "RUN=${RUN:-}" \
		bash scripts/test.sh "$@"
fi
suites=("$@")
[ "${#suites[@]}" -gt 0 ] || suites=(lint unit script fuzz e2e oneshot)
log=$(mktemp -d)
lane="" image="" runs=""
trap '[ -z "$lane$image$runs" ] || kill $lane $image $runs 2>/dev/null; rm -rf "$log"' EXIT
began=$SECONDS
scripts/deps.sh
echo "== what tests need: $((SECONDS - began)) s"

status=0 passed=0 failed=0 skipped=0
# gotest NAME ARGS...: one suite of go tests; go vet is a part of lint
gotest() {
	local name=$1 start=$SECONDS rc=0
	shift
	echo "== $name"
	go test -v -vet=off ${RUN:+-run "$RUN"} "$@" >"$log/$name" 2>&1 || rc=$?
	count "$name" "$rc" "$((SECONDS - start))"
}
# count NAME STATUS SECONDS: adds the results of a suite that ran
count() {
	local name=$1 rc=$2 p f s
	p=$(grep -cE '^ *--- PASS' "$log/$name" || true)
	f=$(grep -cE '^ *--- FAIL' "$log/$name" || true)
	s=$(grep -cE '^ *--- SKIP' "$log/$name" || true)
	if [ "$rc" != 0 ]; then
		status=1
		grep -vE '^( *--- PASS|=== )' "$log/$name" | tail -n 400
		[ "$f" -gt 0 ] || f=1
		awk -f scripts/failed.awk "$log/$name" >>"$log/failed"
	else
		grep -E '^(ok|FAIL|panic)' "$log/$name" || true
	fi
	grep -E '^ *--- SKIP' -A2 "$log/$name" || true
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	echo "== $name: $p passed, $f failed, $s skipped in $3 s"
}

# The guest image of the end-to-end tests is built, if it is missing, while other
# suites run: most of that is waiting for the package mirror.
cache=/var/cache/aivm-test
fetch_image() {
	if compgen -G "$cache/aivm/images/*.qcow2" >/dev/null; then return; fi
	go build -o "$log/aivm" ./cmd/aivm
	HOME="$log" XDG_CACHE_HOME=$cache "$log/aivm" image fetch packages:debian-12 --yes >"$log/image" 2>&1 || cat "$log/image"
}
case " ${suites[*]} " in *" e2e "* | *" oneshot "* | *" long "*)
	fetch_image &
	image=$!
	;;
esac

# e2e: a guest has one CPU, and so some of these tests run beside everything else, in a
# root and namespaces of their own (scripts/otherhost.sh): two runs on one machine would
# each put a program of their own behind libvirt's hooks. In there is no internet and no
# cgroup.
beside='^(TestSecondVM|TestFixture|TestFuture|TestUpgrade|TestPairs)$'
second_lane() {
	(
		tail --pid="$image" -f /dev/null
		RUN=$beside exec scripts/otherhost.sh here
	) >"$log/beside" 2>&1 &
	lane=$!
}
e2e() {
	local rc=0
	export AIVM_E2E=1
	# One package after the other: each puts programs of its own behind the hooks.
	set -- -p 1 -parallel 4 -timeout 80m ./test/upgrade ./test/e2e
	if [ -n "${RUN:-}" ]; then
		gotest e2e "$@"
		return
	fi
	gotest e2e -skip "$beside" "$@"
	wait "$lane" || rc=$?
	lane=
	echo "== e2e, the second VM, beside the other suites"
	if [ "$rc" = 0 ]; then
		grep -E '^ok|^ *--- SKIP' "$log/beside" || true
	else
		status=1
		cat "$log/beside"
		tail -n 200 "$log/beside" >>"$log/failed"
	fi
	local p=0 f=0 s=0
	read -r p f s < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log/beside" | tail -n 1) || true
	[ "$rc" = 0 ] || [ "$f" -gt 0 ] || f=1
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# oneshot: one-shot VMs of an ordinary user, in the template that the image makes as it is. They
# run when the second lane has ended, so that two guests at a time have the processors.
oneshot() {
	local first
	first=$(compgen -G "$cache/aivm/images/*.qcow2" | head -n 1)
	AIVM_ONESHOT=1 AIVM_ONESHOT_IMAGE=$first go test -v -vet=off ${RUN:+-run "$RUN"} -timeout 20m ./test/oneshot
}
oneshot_beside() {
	(
		tail --pid="$lane" -f /dev/null
		start=$SECONDS rc=0
		oneshot >"$log/oneshot" 2>&1 || rc=$?
		echo "$rc $((SECONDS - start))" >"$log/oneshot-ended"
	) &
	runs=$!
}
if [ -z "${RUN:-}" ]; then
	case " ${suites[*]} " in *" e2e "*)
		second_lane
		case " ${suites[*]} " in *" oneshot "*) oneshot_beside ;; esac
		;;
	esac
fi
for suite in "${suites[@]}"; do
	case $suite in
	lint)
		start=$SECONDS
		scripts/lint.sh || status=1
		echo "== lint: $((SECONDS - start)) s"
		;;
	unit)
		mapfile -t packages < <(go list ./... | grep -vE '/test/(script|e2e|upgrade)')
		gotest unit -p 4 "${packages[@]}" # some wait more than they compute
		;;
	script) gotest script ./test/script/... ;;
	fuzz)
		start=$SECONDS rc=0
		echo "== fuzz"
		scripts/fuzz.sh changed >"$log/fuzz" 2>&1 || rc=$?
		grep -av '^ok ' "$log/fuzz" || true
		p=$(grep -c '^ok ' "$log/fuzz" || true) f=$(grep -c '^FAIL ' "$log/fuzz" || true)
		[ "$rc" = 0 ] || status=1
		[ "$rc" = 0 ] || [ "$f" -gt 0 ] || f=1
		passed=$((passed + p)) failed=$((failed + f))
		echo "== fuzz: $p passed, $f failed in $((SECONDS - start)) s"
		;;
	e2e)
		wait "$image" || true
		image=
		e2e
		;;
	oneshot)
		echo "== oneshot"
		if [ -n "$runs" ]; then
			wait "$runs" || true
			runs=
		else
			wait "$image" || true
			image=
			start=$SECONDS rc=0
			oneshot >"$log/oneshot" 2>&1 || rc=$?
			echo "$rc $((SECONDS - start))" >"$log/oneshot-ended"
		fi
		read -r rc took <"$log/oneshot-ended" || rc=1 took=0
		count oneshot "$rc" "$took"
		;;
	long)
		gotest long-scan -timeout 60m -tags long -run "${RUN:-^TestFewAlarms\$}" ./internal/secretscan
		wait "$image" || true
		image=
		AIVM_E2E=1 gotest long -parallel 4 -timeout 300m -tags long -p 1 -run "${RUN:-^(TestLong|TestMany|TestAlone|TestAdopt|TestPairs|TestFirstVM|TestSecondVM|TestUpgrade|TestUser|TestWalk)\$}" ./test/upgrade ./test/e2e
		;;
	*)
		echo "there is no suite $suite" >&2
		exit 2
		;;
	esac
done
# Once more at the end, where it is found even if only the end is kept.
[ ! -s "$log/failed" ] || tail -n 200 "$log/failed"
echo "== all: $((SECONDS - began)) s"
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
