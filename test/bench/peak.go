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

// peak is what one run of a program cost.
type peak struct {
	Wall time.Duration
	RSS  int64 // bytes, the highest
}

// runPeak runs a program and prints what it cost. It is a process of its own
// because the kernel charges a child with the memory its parent had when it
// was made (exec's setmax_mm_hiwater_rss); this one is new and small.
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
