package sshcfg

import (
	"context"
	"strings"
	"testing"
)

// BenchmarkWarm measures this package's part of a run that changes nothing, with a user's
// configuration of 2,000 lines.
func BenchmarkWarm(b *testing.B) {
	l := newLayout(b)
	write(b, l.sshConfig(), strings.Repeat("Host x\n  User y\n  Port 1\n  Compression yes\n", 500), 0o600)
	want := stanzaFor(l, "a")
	if err := CreateOwnKey(l); err != nil {
		b.Fatal(err)
	}
	apply(b, l, want)
	for b.Loop() {
		ids, err := l.Identities(context.Background(), "", noenv)
		if err != nil || len(PlanOwnKey(l, ids)) != 0 {
			b.Fatal(err)
		}
		if as, err := Plan(Observe(l, want), want); err != nil || len(as) != 0 {
			b.Fatal(as, err)
		}
	}
}
