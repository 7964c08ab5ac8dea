package loop

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"aivm.dev/aivm/internal/pause"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/target"
)

// BootLimit returns how long a boot may take: generous with KVM, and long enough for an
// emulated CPU on a busy machine.
func (e Loop) BootLimit() time.Duration {
	if accel, _ := host.Accel(e.HostFacts()); accel == "kvm" {
		return 4 * time.Minute
	}
	return 10 * time.Minute
}

// The causes with which WatchDomain ends a wait for a guest.
var (
	ErrNotRunning = errors.New("the domain is no longer running")
	ErrPaused     = errors.New("the domain was paused, as QEMU does when the disk is full")
	ErrNoBridge   = errors.New("its network was stopped while it ran, and libvirt does not reconnect it")
)

// sysNet lists the interfaces of this machine. An interface that is in a bridge has the link
// "master" (Linux, Documentation/ABI/testing/sysfs-class-net).
const sysNet = "/sys/class/net"

// withoutBridge reports whether the interface exists and is in no bridge.
func withoutBridge(tap string) bool {
	if tap == "" {
		return false
	}
	if _, err := os.Lstat(filepath.Join(sysNet, tap)); err != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(sysNet, tap, "master"))
	return errors.Is(err, fs.ErrNotExist)
}

// WatchDomain cancels the context with a cause when the domain has stopped, is paused, or is
// disconnected from its network at two checks in a row.
func (e Loop) WatchDomain(ctx context.Context, name string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		detached := 0
		for {
			if pause.For(ctx, 2*time.Second) != nil {
				return
			}
			l, err := e.Libvirt(ctx)
			if err != nil {
				continue // libvirt did not answer: no reason to stop waiting
			}
			d, err := l.Domain(ctx, name)
			if errors.Is(err, virt.ErrNoDaemon) {
				e.DropLibvirt()
			}
			if err == nil && d.State == virt.Paused {
				cancel(ErrPaused)
				return
			}
			if err != nil || d.State != virt.Running || !withoutBridge(d.Tap) {
				detached = 0
			} else if detached++; detached > 1 {
				cancel(ErrNoBridge)
				return
			}
			if err == nil && d.State == virt.Off || errors.Is(err, virt.ErrNotFound) {
				cancel(ErrNotRunning)
				return
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// SerialTail returns the last n lines that the guest wrote to its serial console, with
// control characters escaped.
func (e Loop) SerialTail(ctx context.Context, l *virt.Conn, w *target.Target, n int) []string {
	pool, err := l.PoolAt(ctx, e.BaseDir(w.Record.Paths))
	if err != nil {
		return nil
	}
	b, err := l.ReadTail(ctx, pool.Name, domain.SerialVolume(e.Key(w.Name)), 8<<10)
	if err != nil {
		return nil
	}
	return LastSerial(b, n)
}

// LastSerial returns the last n lines of b that are not empty, with control characters
// escaped.
func LastSerial(b []byte, n int) []string {
	var out []string
	for _, s := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if s = strings.TrimSpace(ui.CleanTo(s, 200)); s != "" {
			out = append(out, s)
		}
	}
	return out[max(0, len(out)-n):]
}

// SerialLines is how many of the last console lines are shown.
const SerialLines = 12
