.PHONY: build test lint unit script e2e bench

build:
	go build -trimpath -ldflags=-s -o bin/aivm ./cmd/aivm

# All tests: lint, unit, scripts, end to end on a real VM.
test:
	@scripts/test.sh

# One part of them.
lint unit script e2e:
	@scripts/test.sh $@

# Figures, each beside its rival and its bar.
bench:
	@scripts/bench.sh
