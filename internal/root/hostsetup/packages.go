// Package hostsetup sets up this machine for VMs: packages, libvirt's daemons, KVM's
// device and kernel module.
//
// It removes no package and stops no service.
package hostsetup

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// aptLocks are the files apt and dpkg lock (apt.conf(5), dpkg's lock-frontend).
var aptLocks = []string{"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"}

// lockWait is how long to wait for another package manager: unattended upgrades on a
// fresh machine take minutes.
const lockWait = 10 * time.Minute

var aptEnv = []string{"DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l", "NEEDRESTART_SUSPEND=1", "APT_LISTCHANGES_FRONTEND=none"}

// aptExact makes apt-get take names literally, where it would take a name as a regular
// expression if no package has that name, and remove no package, since the user did not
// approve that.
var aptExact = []string{"--no-remove", "-o", "APT::Cmd::Pattern-Only=true"}

// InstallApt installs the missing ones of the packages on Debian or Ubuntu. Installed
// ones are neither upgraded nor marked as manually installed.
func InstallApt(ctx context.Context, o record.Packages, progress record.Progress) error {
	if _, err := program.Find("apt-get"); err != nil {
		return ui.Refused("aivm installs packages with apt on this machine, and it has no apt-get").
			Hint(ui.Remark("install these packages yourself: " + strings.Join(o.Names, " ")))
	}
	names := missingPackages(ctx, o.Names)
	if len(names) == 0 {
		return ctx.Err()
	}
	if err := waitLocks(ctx, progress); err != nil {
		return err
	}
	if pending, _ := filepath.Glob("/var/lib/dpkg/updates/[0-9]*"); len(pending) > 0 {
		// A dpkg was killed; until its work is finished apt-get refuses to run.
		progress("finishing an interrupted installation", -1)
		if _, err := (program.Command{Argv: []string{"dpkg", "--force-confold", "--configure", "-a"}, Env: aptEnv}).Run(ctx); err != nil {
			return err
		}
	}
	updated := false
	update := func() error {
		updated = true
		if err := waitLocks(ctx, progress); err != nil {
			return err
		}
		progress("apt-get update", -1)
		return apt(ctx, progress, 0, 0.1, "update")
	}
	lists, _ := filepath.Glob("/var/lib/apt/lists/*Release")
	known := func() bool {
		_, err := (program.Command{Argv: slices.Concat([]string{"apt-get", "-q", "-s"}, aptExact, []string{"install", "--no-install-recommends", "--"}, names), Env: aptEnv}).Run(ctx)
		return err == nil
	}
	if len(lists) == 0 || !known() {
		if err := update(); err != nil {
			return err
		}
	}
	args := slices.Concat(aptExact, []string{"install", "-y", "--no-install-recommends", "--"}, names)
	err := apt(ctx, progress, 0.1, 1, args...)
	if err != nil && !updated && ctx.Err() == nil {
		// The lists may name versions that the mirror no longer has.
		if err := update(); err != nil {
			return err
		}
		err = apt(ctx, progress, 0.1, 1, args...)
	}
	return err
}

// missingPackages returns the packages that are not installed according to dpkg. A name
// for which dpkg-query fails counts as missing; apt then decides.
func missingPackages(ctx context.Context, names []string) []string {
	var out []string
	for _, n := range names {
		b, err := program.Command{Argv: []string{"dpkg-query", "-W", "-f", "${db:Status-Status}\n", "--", n}}.Run(ctx)
		if err != nil || strings.TrimSpace(string(b)) != "installed" {
			out = append(out, n)
		}
	}
	return out
}

// apt runs apt-get and reports its progress, which it reads from a separate descriptor,
// as fractions between from and to.
func apt(ctx context.Context, progress record.Progress, from, to float64, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		half := (to - from) / 2
		for sc := bufio.NewScanner(r); sc.Scan(); {
			if s, ok := parseAptStatus(sc.Text()); ok {
				f := from + half*s.percent/100
				if !s.download {
					f += half
				}
				progress(s.text, f)
			}
		}
	}()
	argv := append([]string{
		"apt-get", "-q",
		"-o", "APT::Status-Fd=3", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120",
		"-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", "-o", "Acquire::Retries=3",
	}, args...)
	_, err = program.Command{Argv: argv, Env: aptEnv, Files: []*os.File{w}}.Run(ctx)
	w.Close()
	// A daemon that a package's script started may keep the other end open.
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	r.Close()
	return err
}

type aptStatus struct {
	download bool
	percent  float64
	text     string
}

// parseAptStatus reads a line of APT::Status-Fd (apt's
// README.progress-reporting): "pmstatus:PACKAGE:PERCENT:TEXT" while
// installing, "dlstatus:NUMBER:PERCENT:TEXT" while downloading.
func parseAptStatus(line string) (aptStatus, bool) {
	f := strings.SplitN(line, ":", 4)
	if len(f) != 4 || f[0] != "pmstatus" && f[0] != "dlstatus" {
		return aptStatus{}, false
	}
	// A package name may include its architecture: "pmstatus:libc6:amd64:20.0:Unpacking".
	if _, err := strconv.ParseFloat(f[2], 64); err != nil {
		if f[0] != "pmstatus" {
			return aptStatus{}, false
		}
		if arch, rest, ok := strings.Cut(f[3], ":"); ok {
			f[2], f[3] = arch, rest
		}
	}
	p, err := strconv.ParseFloat(f[2], 64)
	if err != nil || !(p >= 0 && p <= 100) {
		return aptStatus{}, false
	}
	return aptStatus{download: f[0] == "dlstatus", percent: p, text: f[3]}, true
}

// waitLocks waits until no other package manager is running. apt-get itself waits for
// some of its locks and fails at once on others.
func waitLocks(ctx context.Context, progress record.Progress) error {
	start := time.Now()
	for {
		pid := 0
		for _, l := range aptLocks {
			if pid = lockHolder(l); pid != 0 {
				break
			}
		}
		if pid == 0 {
			return nil
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		who := fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), pid)
		if time.Since(start) > lockWait {
			return ui.Failed("another package manager is running: %s has held its lock for %v", who, lockWait)
		}
		progress("waiting for package manager "+who, -1)
		if err := pause.For(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// lockHolder returns the process that holds a write lock on path, or 0.
func lockHolder(path string) int {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lk); err != nil || lk.Type == unix.F_UNLCK {
		return 0
	}
	return int(lk.Pid)
}
