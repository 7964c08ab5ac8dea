.PHONY: build test lint unit script e2e oneshot fuzz test-long test-trixie bench programs

build:
	go build -trimpath -ldflags=-s -o bin/aivm ./cmd/aivm

# All tests: lint, unit, scripts, fuzzing, end to end on a real VM, one-shot VMs.
test:
	@scripts/test.sh

# One part of them.
lint unit script e2e oneshot:
	@scripts/test.sh $@

# Fuzzes every parser of external input for 30 seconds; make test fuzzes those
# in changed packages for 5 seconds.
fuzz:
	@scripts/fuzz.sh

# The long tests: a walk over 300,000 files, as many devices as a VM can have,
# two hundred folders, a boot for each kill, five rounds of every pair of verbs.
test-long:
	@scripts/test.sh long

# The end-to-end suite with Debian 13's libvirt, QEMU and virtiofsd, in a separate
# root file system. Options: RUN=TestSecondVM/shares, SUITES="unit script e2e".
test-trixie:
	@scripts/otherhost.sh trixie $(SUITES)

# Performance figures, each with its reference and its limit.
bench:
	@scripts/bench.sh

# The agents of one-shot VMs, which aivm embeds: after each change of internal/guestd/agent
# or internal/guestd/wire.
programs:
	@scripts/programs.sh
