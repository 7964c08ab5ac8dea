package hookinstall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// hooksTold is written when the daemons that run have shown that they know the
// hooks; one that starts later looks for them by itself.
func hooksTold() string { return filepath.Join(rootfile.ManifestDir, "hooks") }

func toldText() []byte {
	h := sha256.New()
	for _, k := range rootfile.HookKinds {
		_, _ = io.WriteString(h, scriptText(k))
	}
	return []byte(hex.EncodeToString(h.Sum(nil)) + "\n")
}

// question is the file that asks the daemon with this process number whether
// it runs its hooks.
func question(pid string) string { return filepath.Join(rootfile.ManifestDir, "asks-"+pid) }

// hookDaemons are the daemons that run hooks: the one of old and the two it
// was split into, with their pid files.
var hookDaemons = []string{"libvirtd", "virtnetworkd", "virtqemud"}

// How long a daemon may take to answer, and after which time it is told again.
const (
	tellLimit = 30 * time.Second
	tellAgain = time.Second
)

// tellDaemons has the daemons that run look for hooks anew. One that starts
// later looks by itself.
func tellDaemons(ctx context.Context, progress record.Progress) error {
	for _, name := range hookDaemons {
		b, err := os.ReadFile("/run/" + name + ".pid")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || pid <= 1 || !isDaemon(pid, name) {
			continue // what a daemon that died left behind
		}
		progress("telling "+name+" of its hooks", -1)
		if err := tellDaemon(ctx, name, pid); err != nil {
			return err
		}
	}
	return nil
}

// isDaemon reports whether the process runs the program of that name.
func isDaemon(pid int, name string) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(comm)) == name
}

// tellDaemon sends SIGHUP, at which a daemon looks for hooks and then calls its
// own (virHookCall in libvirt's virhook.c); VMs and networks stay as they are.
// It passes over the signal while its drivers start, and while it is at an
// earlier one (daemonReloadHandler in remote_daemon.c), so it is sent until the
// hook has answered.
func tellDaemon(ctx context.Context, name string, pid int) error {
	ask := question(strconv.Itoa(pid))
	if err := rootfile.WriteWhole(ask, nil, 0o644); err != nil {
		return err
	}
	defer os.Remove(ask)
	for end := time.Now().Add(tellLimit); time.Now().Before(end); {
		if !isDaemon(pid, name) {
			return nil // the next one looks when it starts
		}
		// Before it catches the signal, it would die of it.
		if catches(pid, unix.SIGHUP) {
			if err := unix.Kill(pid, unix.SIGHUP); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("telling %s to reload: %w", name, err)
			}
		}
		for again := time.Now().Add(tellAgain); time.Now().Before(again); {
			if _, err := os.Lstat(ask); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err := pause.For(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return ui.Failed("%s was told of its hooks, and does not call them", name).
		Hint(ui.CmdFor("restart it; VMs go on", "sudo systemctl restart "+name), ui.Cmd("ls -l "+rootfile.HookScript("daemon")))
}

// catches reports whether the process has a handler for the signal
// (proc_pid_status(5), SigCgt).
func catches(pid int, sig unix.Signal) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && n&(1<<(uint(sig)-1)) != 0
		}
	}
	return false
}
