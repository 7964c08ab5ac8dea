.PHONY: build test lint unit script e2e fuzz test-long test-trixie bench

build:
	go build -trimpath -ldflags=-s -o bin/aivm ./cmd/aivm

# All tests: lint, unit, scripts, fuzzing, end to end on a real VM.
test:
	@scripts/test.sh

# One part of them.
lint unit script e2e:
	@scripts/test.sh $@

# Every reader of outside text, 30 seconds each; make test gives 5 seconds to
# those of packages that changed since.
fuzz:
	@scripts/fuzz.sh

# What takes long: a walk over 300,000 files, as many devices as a VM can have,
# two hundred folders, a boot for each kill, five rounds of every pair of verbs.
test-long:
	@scripts/test.sh long

# The end-to-end suite on Debian 13's libvirt, QEMU and virtiofsd, in a root of
# its own: make test-trixie, or with RUN=TestShares, or SUITES="unit script e2e".
test-trixie:
	@scripts/otherhost.sh trixie $(SUITES)

# Figures, each beside its rival and its bar.
bench:
	@scripts/bench.sh
