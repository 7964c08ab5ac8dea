package hostsetup

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// A daemon is a service that aivm may start. Only a connection to its socket shows
// whether it runs: pid file and socket file can outlive the process.
type daemon struct {
	Unit   string
	Argv   []string // the command where systemd does not run
	Socket string
	Wait   time.Duration
}

var daemons = map[string]daemon{
	"libvirtd": {Unit: "libvirtd.service", Argv: []string{"libvirtd", "-d"}, Socket: "/run/libvirt/libvirt-sock", Wait: 60 * time.Second},
	// libvirt's modular daemons; systemd starts them at the first connection.
	"virtqemud":    {Unit: "virtqemud.socket", Argv: []string{"virtqemud", "-d"}, Socket: "/run/libvirt/virtqemud-sock", Wait: 60 * time.Second},
	"virtnetworkd": {Unit: "virtnetworkd.socket", Argv: []string{"virtnetworkd", "-d"}, Socket: "/run/libvirt/virtnetworkd-sock", Wait: 30 * time.Second},
	"virtstoraged": {Unit: "virtstoraged.socket", Argv: []string{"virtstoraged", "-d"}, Socket: "/run/libvirt/virtstoraged-sock", Wait: 30 * time.Second},

	"virtlogd": {Unit: "virtlogd.service", Argv: []string{"virtlogd", "-d"}, Socket: "/run/libvirt/virtlogd-sock", Wait: 30 * time.Second},
}

// StartService starts a service by its name, one of record.Services, and waits until its
// socket answers.
func StartService(ctx context.Context, name string, progress record.Progress) error {
	return daemons[name].start(ctx, progress)
}

// systemdDir exists exactly where systemd is the init system (sd_booted(3)).
const systemdDir = "/run/systemd/system"

// start starts the daemon, through systemd where it runs, and waits until its socket
// answers.
func (d daemon) start(ctx context.Context, progress record.Progress) error {
	if _, err := os.Stat(systemdDir); err == nil {
		d.Argv = []string{"systemctl", "start", d.Unit}
	}
	return d.StartDirectly(ctx, progress)
}

func (d daemon) StartDirectly(ctx context.Context, progress record.Progress) error {
	if d.answers(ctx) == nil {
		return nil
	}
	name, _, _ := strings.Cut(d.Unit, ".")
	progress("starting "+name, -1)
	if _, err := (program.Command{Argv: d.Argv}).Run(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return ui.Failed("%w", err).Hint(ui.Cmd("aivm host doctor"), ui.Cmd("sudo "+strings.Join(d.Argv, " ")))
	}
	start := time.Now()
	for {
		err := d.answers(ctx)
		if err == nil {
			return nil
		}
		if time.Since(start) > d.Wait {
			return ui.Failed("%s was started but does not answer on %s after %v: %w", name, d.Socket, d.Wait, err).
				Hint(ui.CmdFor("to see its log", "sudo journalctl -u "+d.Unit))
		}
		progress(fmt.Sprintf("waiting for %s to answer", name), -1)
		if err := pause.For(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (d daemon) answers(ctx context.Context) error {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", d.Socket)
	if err != nil {
		return err
	}
	return c.Close()
}

// DialSocket connects to libvirt's socket as root. libvirt checks the credentials of the
// process that connected, so whoever receives the descriptor has root's access.
func DialSocket(ctx context.Context, path string) (*os.File, error) {
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, ui.Failed("connecting to libvirt: %w", err).Hint(ui.Cmd("aivm host doctor"))
	}
	defer c.Close()
	return c.(*net.UnixConn).File()
}
