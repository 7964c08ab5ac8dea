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

// BootLimit is how long a boot may take: generous with KVM, and long enough
// for an emulated CPU on a busy machine.
func (e Loop) BootLimit() time.Duration {
	if accel, _ := host.Accel(e.HostFacts()); accel == "kvm" {
		return 4 * time.Minute
	}
	return 10 * time.Minute
}

// ErrNotRunning ends a wait for a guest whose domain has stopped.
var (
	ErrNotRunning = errors.New("the domain is no longer running")
	ErrPaused     = errors.New("the domain was paused, as QEMU does when the disk is full")
	ErrNoBridge   = errors.New("its network was stopped while it ran, and libvirt does not plug it in again")
)

// sysNet shows the interfaces of this machine, and what each is plugged into
// (sysfs-class-net, "master").
const sysNet = "/sys/class/net"

// unplugged reports whether the interface is there and in no bridge.
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

// WatchDomain cancels the context when libvirt says that the domain stopped, or
// when nobody can reach it.
func (e Loop) WatchDomain(ctx context.Context, name string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		loose := 0
		for {
			if pause.For(ctx, 2*time.Second) != nil {
				return
			}
			l, err := e.Libvirt(ctx)
			if err != nil {
				continue // could not ask: not a reason to stop waiting
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
				loose = 0
			} else if loose++; loose > 1 {
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

// SerialTail returns the last lines the guest wrote to its serial console,
// made harmless.
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

// LastSerial are the last n lines of a serial console that are not empty, clean.
func LastSerial(b []byte, n int) []string {
	var out []string
	for _, s := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if s = strings.TrimSpace(ui.CleanTo(s, 200)); s != "" {
			out = append(out, s)
		}
	}
	return out[max(0, len(out)-n):]
}

// SerialLines are shown of what the guest wrote to its console last.
const SerialLines = 12
