package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"aivm.dev/aivm/internal/guestd/wire"
)

const (
	cgroupRoot  = "/sys/fs/cgroup"
	cgroupAgent = cgroupRoot + "/commands"
	// killLimit is how long killed processes may take to end.
	killLimit = 5 * time.Second
)

// limits is the control group of all commands.
type limits struct{ dir string } // "" before Setup

func (l *limits) set(r wire.Limits) error {
	if err := os.MkdirAll(cgroupAgent, 0o755); err != nil {
		return err
	}
	// A kernel may lack a controller: then its limit fails below, if there is one.
	for _, controller := range []string{"+pids", "+memory", "+cpu"} {
		_ = os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte(controller), 0)
	}
	set := func(file string, limit int64) error {
		text := "max"
		if limit > 0 {
			text = strconv.FormatInt(limit, 10)
		}
		err := os.WriteFile(filepath.Join(cgroupAgent, file), []byte(text), 0)
		if err != nil && limit <= 0 && errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := set("pids.max", int64(r.Pids)); err != nil {
		return fmt.Errorf("processes: %w", err)
	}
	if err := set("memory.max", r.MemoryBytes); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	l.dir = cgroupAgent
	return nil
}

// killAll kills everything in the control group and waits until it is gone.
func (l *limits) killAll() {
	if l.dir == "" {
		return
	}
	if err := os.WriteFile(l.dir+"/cgroup.kill", []byte("1"), 0); err != nil {
		return
	}
	for deadline := time.Now().Add(killLimit); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		procs, err := os.ReadFile(l.dir + "/cgroup.procs")
		if err != nil || len(procs) == 0 {
			return
		}
	}
}
