package share

import (
	"bytes"
	_ "embed"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// virtiofsd keeps a file descriptor open for every inode the guest caches, and the
// guest drops inodes only when it is short of memory. A walk over a large tree takes
// the daemon to its limit; then nothing can be opened any more, and even a write to an
// open file fails. A virtiofsd that uses file handles instead (1.14 and newer by
// default) has no such limit. virtiofsd raises its limit to a million where it may; in
// addition a service in the guest drops the caches in time.
const (
	maxInodesPath  = "/var/lib/aivm/descriptors" // how many inodes the guest may cache
	guardPath      = "/usr/local/sbin/aivm-folders-guard"
	guardUnitPath  = "/etc/systemd/system/aivm-folders-guard.service"
	guardWantsPath = "/etc/systemd/system/multi-user.target.wants/aivm-folders-guard.service"
)

// assumedLimit is the limit on open files that virtiofsd sets for itself.
const assumedLimit = 1000000

const guardUnit = `# Written by aivm.
[Unit]
Description=Keeps the folders shared by aivm within the host's open files
ConditionPathExists=` + bootListPath + `

[Service]
ExecStart=` + guardPath + `
Restart=always
RestartSec=3

[Install]
WantedBy=multi-user.target
`

//go:embed cache_guard.sh
var guardText string

// guardScript starts one program, sleep, every three seconds. In that time a guest
// looks up fewer inodes than the 40 percent of the limit that inodeLimit leaves free.
var guardScript = places.Replace(guardText)

// inodeLimit returns how many inodes a guest may cache: 60 percent of its daemon's
// limit on open files. limit 0 means not known.
func inodeLimit(limit int) int {
	if limit <= 0 {
		limit = assumedLimit
	}
	return limit / 10 * 6
}

// ObserveDaemons reads how many files the VM's virtiofsd processes may have open, if
// PlanGuest is going to write that into the guest. It needs no privileges.
func (f *HostFacts) ObserveDaemons(g GuestFacts, atts []Attachment) {
	if atts = f.usable(atts); g.needsList(bootList(atts, f.guestGroups(atts)), atts) {
		f.OpenFiles = f.daemonLimit()
	}
}

// daemonLimit returns the lowest limit on open files of the VM's virtiofsd processes; 0
// if it cannot be read.
func (f HostFacts) daemonLimit() int {
	lowest := 0
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range names {
		comm, err := os.ReadFile(p)
		if err != nil || strings.TrimSpace(string(comm)) != "virtiofsd" {
			continue
		}
		dir := filepath.Dir(p)
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !serves(args, f.ExportPath) || !runsAsRoot(dir) {
			continue
		}
		if n := openFiles(filepath.Join(dir, "limits")); n > 0 && (lowest == 0 || n < lowest) {
			lowest = n
		}
	}
	return lowest
}

// serves reports whether a command line names the export directory or a token in it.
// The match must end at a separator: another VM's directory may start with the same
// name.
func serves(args []byte, export string) bool {
	_, rest, ok := bytes.Cut(args, []byte(export))
	return ok && export != "" && (len(rest) == 0 || bytes.IndexByte([]byte("\x00,/"), rest[0]) >= 0)
}

// openFiles reads the soft limit on open files from a file in the format of
// proc_pid_limits(5); 0 if it cannot be read.
func openFiles(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if w := strings.Fields(rest); len(w) > 0 {
				n, _ := strconv.Atoi(w[0]) // "unlimited" counts as 0, not known
				return n
			}
		}
	}
	return 0
}
