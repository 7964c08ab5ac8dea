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

// loadedPath returns the path of the file that records which scripts the running
// daemons have loaded; a daemon that starts later loads them by itself.
func loadedPath() string { return filepath.Join(rootfile.ManifestDir, "hooks") }

// scriptsDigest returns the content of that file for the current scripts.
func scriptsDigest() []byte {
	h := sha256.New()
	for _, k := range rootfile.HookKinds {
		_, _ = io.WriteString(h, scriptText(k))
	}
	return []byte(hex.EncodeToString(h.Sum(nil)) + "\n")
}

// reloadFile returns the path of the file whose removal by its hook shows that the
// daemon with this process number has loaded the hooks.
func reloadFile(pid string) string { return filepath.Join(rootfile.ManifestDir, "asks-"+pid) }

// hookDaemons lists the daemons that run hooks: the monolithic libvirtd, and the two of
// the modular daemons.
var hookDaemons = []string{"libvirtd", "virtnetworkd", "virtqemud"}

// reloadLimit is how long a daemon may take to run its hook, reloadInterval the time
// between two signals.
const (
	reloadLimit    = 30 * time.Second
	reloadInterval = time.Second
)

// reloadDaemons makes the running daemons load the hooks again. A daemon that starts
// later loads them by itself.
func reloadDaemons(ctx context.Context, progress record.Progress) error {
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
			continue // the stale pid file of a daemon that died
		}
		progress("making "+name+" load its hooks", -1)
		if err := reloadDaemon(ctx, name, pid); err != nil {
			return err
		}
	}
	return nil
}

// isDaemon reports whether the process has this program name.
func isDaemon(pid int, name string) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(comm)) == name
}

// reloadDaemon sends SIGHUP, on which a daemon loads its hooks and then runs the hook
// daemon.d (virHookCall in libvirt's virhook.c); VMs and networks are not affected. The
// daemon ignores the signal while its drivers start, and while it handles an earlier
// one (daemonReloadHandler in remote_daemon.c). So reloadDaemon repeats the signal until
// the hook has removed the file.
func reloadDaemon(ctx context.Context, name string, pid int) error {
	file := reloadFile(strconv.Itoa(pid))
	if err := rootfile.WriteAtomic(file, nil, 0o644); err != nil {
		return err
	}
	defer os.Remove(file)
	for end := time.Now().Add(reloadLimit); time.Now().Before(end); {
		if !isDaemon(pid, name) {
			return nil // the next daemon loads the hooks when it starts
		}
		// Without a handler for the signal it would end the daemon.
		if catches(pid, unix.SIGHUP) {
			if err := unix.Kill(pid, unix.SIGHUP); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("sending SIGHUP to %s: %w", name, err)
			}
		}
		for again := time.Now().Add(reloadInterval); time.Now().Before(again); {
			if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err := pause.For(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return ui.Failed("%s does not run its hooks after SIGHUP", name).
		Hint(ui.CmdFor("restart it; VMs keep running", "sudo systemctl restart "+name), ui.Cmd("ls -l "+rootfile.HookScript("daemon")))
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
