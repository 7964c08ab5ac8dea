package share

import (
	"bytes"
	_ "embed"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// virtiofsd holds a descriptor for every inode the guest remembers, and the
// guest forgets only when it is short of memory. A walk over a large tree
// brings the daemon to its limit, and then nothing can be opened any more, not
// even for writing what is open. Where it uses file handles instead (1.14 and
// newer do by themselves) this does not happen. virtiofsd raises its limit to a
// million where it may; the rest is done in the guest, by a service that makes
// it forget in time.
const (
	maxInodesPath  = "/var/lib/aivm/descriptors" // how many inodes the guest may remember
	guardPath      = "/usr/local/sbin/aivm-folders-guard"
	guardUnitPath  = "/etc/systemd/system/aivm-folders-guard.service"
	guardWantsPath = "/etc/systemd/system/multi-user.target.wants/aivm-folders-guard.service"
)

// assumedLimit is what virtiofsd gives itself.
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

//go:embed guard.sh
var guardText string

// guardScript starts one program every three seconds, sleep. In that time a
// guest looks up less than the third of the limit that is left above most.
var guardScript = places.Replace(guardText)

// inodeLimit is how many inodes a guest may remember, given its daemon's limit.
func inodeLimit(limit int) int {
	if limit <= 0 {
		limit = assumedLimit
	}
	return limit / 10 * 6
}

// ObserveDaemons reads how many files the VM's daemons may have open, if
// PlanGuest is going to write that into the guest. It needs no rights.
func (f *HostFacts) ObserveDaemons(g GuestFacts, atts []Attachment) {
	if atts = f.usable(atts); g.needsList(bootList(atts), atts) {
		f.OpenFiles = f.daemonLimit()
	}
}

// daemonLimit is how many files the VM's daemons may have open, the lowest of
// them; 0 if that cannot be read.
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

// serves reports whether a command line names the export root, or a token
// below it; another VM's name may begin alike.
func serves(args []byte, export string) bool {
	_, rest, ok := bytes.Cut(args, []byte(export))
	return ok && export != "" && (len(rest) == 0 || bytes.IndexByte([]byte("\x00,/"), rest[0]) >= 0)
}

// openFiles reads the soft limit of proc_pid_limits(5).
func openFiles(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if w := strings.Fields(rest); len(w) > 0 {
				n, _ := strconv.Atoi(w[0]) // "unlimited" is 0: not known to be low
				return n
			}
		}
	}
	return 0
}
