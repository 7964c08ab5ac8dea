.PHONY: build test lint unit script e2e test-long test-trixie bench

build:
	go build -trimpath -ldflags=-s -o bin/aivm ./cmd/aivm

# All tests: lint, unit, scripts, end to end on a real VM.
test:
	@scripts/test.sh

# One part of them.
lint unit script e2e:
	@scripts/test.sh $@

# What takes long or needs the machine for itself: a walk over 300,000 files, as
# many devices as a VM can have, a hostile guest, load with libvirtd restarted.
test-long:
	@scripts/test.sh long

# The end-to-end suite on Debian 13's libvirt, QEMU and virtiofsd, in a root of
# its own: make test-trixie, or with RUN=TestShares, or SUITES="unit script e2e".
test-trixie:
	@scripts/otherhost.sh trixie $(SUITES)

# Figures, each beside its rival and its bar.
bench:
	@scripts/bench.sh
