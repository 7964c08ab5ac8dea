package share

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// Served reports whether a virtiofsd with the VM's export directory on its command line
// runs. known is false where this user cannot see the processes of other users
// (hidepid).
func (f HostFacts) Served() (served, known bool) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if filepath.Dir(p) == "/proc/1" {
			known = len(b) > 0
		}
		argv := bytes.Split(bytes.TrimRight(b, "\x00"), []byte{0})
		if !strings.Contains(filepath.Base(string(argv[0])), "virtiofsd") {
			continue
		}
		for _, a := range argv[1:] {
			// The C daemon takes "-o source=DIR", the Rust one "--shared-dir DIR"; either
			// may be followed by a comma and more options.
			_, v, ok := strings.Cut(string(a), "=")
			if !ok {
				v = string(a)
			}
			if v, _, _ = strings.Cut(v, ","); v == f.ExportPath && runsAsRoot(filepath.Dir(p)) {
				return true, true
			}
		}
	}
	return false, known
}

// runsAsRoot reports whether all user ids of a process are root's. Its name and
// arguments prove nothing: the user who started it chose them.
func runsAsRoot(proc string) bool {
	b, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			return strings.Join(strings.Fields(ids), " ") == "0 0 0 0"
		}
	}
	return false
}
