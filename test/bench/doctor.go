package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// doctorRuns is enough for a median and a worst case.
const doctorRuns = 15

// measureDoctor measures the entire process of `aivm host doctor` on a machine where no check is
// bad, for root, who also reads the firewall's rules, and for a user.
func (b *bench) measureDoctor() error {
	for _, w := range []*world{b.root, b.user} {
		// Without its extension, the stand-in for the editor would make a check bad.
		ext := filepath.Join(w.home, ".vscode/extensions/ms-vscode-remote.remote-ssh-0.120.0")
		if err := os.MkdirAll(ext, 0o755); err != nil {
			return err
		}
		var took []time.Duration
		for range doctorRuns {
			_, d, err := w.aivm(b.ctx, w.home, "host", "doctor", "--json")
			if err != nil {
				return fmt.Errorf("a check of the doctor is bad on this machine (%s): %w", w.label, err)
			}
			took = append(took, d)
		}
		m, worst := median(took), slices.Max(took)
		b.table.add(figure{
			name: fmt.Sprintf("host doctor of a healthy machine (%s), median of %d, worst %s", w.label, doctorRuns, millis(worst)), value: millis(m), limit: "<= 300 ms",
		}, m <= 300*time.Millisecond)
	}
	return nil
}
