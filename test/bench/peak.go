package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const peakFlag = "-peak"

// peak holds the cost of one run of a program.
type peak struct {
	Wall time.Duration
	RSS  int64 // the maximum, in bytes
}

// runPeak runs a program and prints its cost. It needs a small new process for this, because the
// kernel counts the memory of a child's parent at its start as the child's maximum (exec's
// setmax_mm_hiwater_rss).
func runPeak(argv []string) int {
	c := exec.Command(argv[0], argv[1:]...)
	c.Stderr = os.Stderr
	began := time.Now()
	err := c.Run()
	p := peak{Wall: time.Since(began)}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p.RSS = c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return 1
	}
	return 0
}

// cost runs a program of this world through runPeak.
func (w *world) cost(argv ...string) (peak, error) {
	self, err := os.Executable()
	if err != nil {
		return peak{}, err
	}
	out, _, err := w.run(w.b.ctx, w.home, nil, append([]string{self, peakFlag}, argv...)...)
	if err != nil {
		return peak{}, err
	}
	var p peak
	err = json.Unmarshal([]byte(out), &p)
	return p, err
}
