package root

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/ui"
)

// A daemon is a service aivm may start. Whether it runs is asked of its
// socket: a pid file, or the socket's file, outlives the process.
type daemon struct {
	unit   string
	argv   []string // where systemd does not run
	socket string
	wait   time.Duration
}

var daemons = map[string]daemon{
	"libvirtd": {unit: "libvirtd.service", argv: []string{"libvirtd", "-d"}, socket: "/run/libvirt/libvirt-sock", wait: 60 * time.Second},
	// The parts of a modular libvirt; systemd starts them when somebody connects.
	"virtqemud":    {unit: "virtqemud.socket", argv: []string{"virtqemud", "-d"}, socket: "/run/libvirt/virtqemud-sock", wait: 60 * time.Second},
	"virtnetworkd": {unit: "virtnetworkd.socket", argv: []string{"virtnetworkd", "-d"}, socket: "/run/libvirt/virtnetworkd-sock", wait: 30 * time.Second},
	"virtstoraged": {unit: "virtstoraged.socket", argv: []string{"virtstoraged", "-d"}, socket: "/run/libvirt/virtstoraged-sock", wait: 30 * time.Second},

	"virtlogd": {unit: "virtlogd.service", argv: []string{"virtlogd", "-d"}, socket: "/run/libvirt/virtlogd-sock", wait: 30 * time.Second},
}

// libvirtSockets are what LibvirtSocket may open (/var/run is a link to /run
// where the packages put the former into a configuration).
var libvirtSockets = []string{"/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"}

// systemdDir is there exactly where systemd is the init system (sd_booted(3)).
const systemdDir = "/run/systemd/system"

// start starts the daemon and returns when its socket answers.
func (d daemon) start(ctx context.Context, progress Progress) error {
	if _, err := os.Stat(systemdDir); err == nil {
		d.argv = []string{"systemctl", "start", d.unit}
	}
	return d.startDirectly(ctx, progress)
}

func (d daemon) startDirectly(ctx context.Context, progress Progress) error {
	if d.answers(ctx) == nil {
		return nil
	}
	name, _, _ := strings.Cut(d.unit, ".")
	progress("starting "+name, -1)
	if _, err := (program{argv: d.argv}).run(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return ui.Failed("%w", err).Hint("aivm host doctor", "sudo "+strings.Join(d.argv, " "))
	}
	start := time.Now()
	for {
		err := d.answers(ctx)
		if err == nil {
			return nil
		}
		if time.Since(start) > d.wait {
			return ui.Failed("%s was started but does not answer on %s after %v: %w", name, d.socket, d.wait, err).
				Hint("look at its log: journalctl -u " + d.unit)
		}
		progress(fmt.Sprintf("waiting for %s to answer", name), -1)
		if err := pause.For(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (d daemon) answers(ctx context.Context) error {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", d.socket)
	if err != nil {
		return err
	}
	return c.Close()
}

// dialSocket connects with root's rights; libvirt judges a connection by who
// made it, so the descriptor carries them to its receiver.
func dialSocket(ctx context.Context, path string) (*os.File, error) {
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, ui.Failed("connecting to libvirt: %w", err).Hint("aivm host doctor")
	}
	defer c.Close()
	return c.(*net.UnixConn).File()
}
