package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
)

// wallRuns is enough for a median and a worst case.
const wallRuns = 15

// measureWall measures the cost of the firewall: the comparison before every use, in process and
// through sudo, and libvirt's hook, for a network of aivm's and for another one.
func (b *bench) measureWall() error {
	var network string
	have, err := networks(b.ctx)
	if err != nil {
		return err
	}
	var m root.NetManifest
	for _, n := range have {
		if m, err = root.ReadNetManifest(n); err == nil {
			network = n
			break
		}
	}
	if network == "" {
		return fmt.Errorf("no network has a firewall")
	}
	run := func(argv ...string) func() error {
		return func() error {
			c := exec.CommandContext(b.ctx, argv[0], argv[1:]...)
			c.Stderr = os.Stderr
			return c.Run()
		}
	}
	for _, f := range []struct {
		name  string
		limit time.Duration
		do    func() error
	}{
		{"firewall: compared in process", 10 * time.Millisecond, func() error { _, err := nftread.Read(m.Wall.Tables()); return err }},
		{"firewall: compared through sudo", 60 * time.Millisecond, run(append([]string{"sudo", "-n", "--"}, root.CheckArgs(network)...)...)},
		{"libvirt's hook, a network of aivm's", 50 * time.Millisecond, run("/etc/libvirt/hooks/network.d/aivm", network, "start", "begin", "-")},
		{"libvirt's hook, another network", 10 * time.Millisecond, run("/etc/libvirt/hooks/network.d/aivm", "no-such-network", "start", "begin", "-")},
	} {
		var took []time.Duration
		for range wallRuns {
			began := time.Now()
			if err := f.do(); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			took = append(took, time.Since(began))
		}
		mid, worst := median(took), slices.Max(took)
		b.table.add(figure{
			name: fmt.Sprintf("%s, median of %d, worst %s", f.name, wallRuns, millis(worst)), value: millis(mid), limit: "<= " + millis(f.limit),
		}, mid <= f.limit)
	}
	return nil
}
