package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// doctorRuns are enough for a median and a worst case.
const doctorRuns = 15

// measureDoctor is a whole `aivm host doctor` of a machine on which nothing is
// bad, for root, who also reads the firewall's rules, and for a user.
func (b *bench) measureDoctor() error {
	for _, w := range []*world{b.root, b.user} {
		// The stand-in for the editor has its extension, or something is bad.
		ext := filepath.Join(w.home, ".vscode/extensions/ms-vscode-remote.remote-ssh-0.120.0")
		if err := os.MkdirAll(ext, 0o755); err != nil {
			return err
		}
		var took []time.Duration
		for range doctorRuns {
			_, d, err := w.aivm(b.ctx, w.home, "host", "doctor", "--json")
			if err != nil {
				return fmt.Errorf("the doctor calls this machine ill (%s): %w", w.label, err)
			}
			took = append(took, d)
		}
		m, worst := median(took), slices.Max(took)
		b.table.add(figure{
			name: fmt.Sprintf("host doctor of a healthy machine (%s), median of %d, worst %s", w.label, doctorRuns, millis(worst)), value: millis(m), bar: "<= 300 ms",
		}, m <= 300*time.Millisecond)
	}
	return nil
}
