package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

// warmLimit is how long the commands of a Prepare may take together.
const warmLimit = 5 * time.Minute

// flush ends all commands and writes the folders.
func (s *server) flush() error {
	s.endAll()
	return s.guest.mounts.sync()
}

// prepare makes the guest ready to be saved.
func (s *server) prepare(r wire.PrepareRequest) error {
	s.endAll()
	s.mu.Lock()
	s.ready = false
	s.mu.Unlock()
	if !s.init {
		return nil
	}
	g := &s.guest
	g.mounts.unmount()
	if err := g.removeIdentity(); err != nil {
		return err
	}
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("emptying the caches: %w", err)
	}
	for _, argv := range r.Warm {
		p, err := g.program(wire.StartRequest{Argv: argv, Root: true})
		if err != nil {
			continue // there is nothing to warm
		}
		if err := s.warm(p); err != nil {
			return fmt.Errorf("%s: %w", argv[0], err)
		}
	}
	s.guest.limits.killAll()
	if err := g.mounts.keepRelay(); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

func (s *server) warm(p *program) error {
	attr, done, err := p.attributes(nil)
	if err != nil {
		return err
	}
	defer done()
	attr.Sys.Setsid = true
	ended := make(chan error, 1)
	go func() {
		_, err := s.reaper.run(p.Path, p.Argv, attr)
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-time.After(warmLimit):
		return errors.New("it does not end")
	}
}

// removeIdentity removes what the next Setup makes again.
func (g *guest) removeIdentity() error {
	if err := g.removeHostKeys(); err != nil {
		return err
	}
	seeds, err := filepath.Glob(g.root + "/var/lib/systemd/random-seed")
	if err != nil {
		return err
	}
	for _, seed := range seeds {
		if err := os.Remove(seed); err != nil {
			return err
		}
	}
	return g.write("/etc/machine-id", "", 0o444)
}

// powerOff ends everything and powers the VM off.
func (s *server) powerOff(id uint32) {
	err := s.flush()
	if !s.init {
		s.replyError(id, err)
		return
	}
	s.guest.mounts.unmount()
	unix.Sync()
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	s.replyError(id, err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
