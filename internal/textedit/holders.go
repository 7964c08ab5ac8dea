package textedit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/ui"
)

// Holder is a process that still has a file.
type Holder struct {
	PID  int
	Name string
}

func (h Holder) String() string { return fmt.Sprintf("process %d: %s", h.PID, ui.CleanTo(h.Name, 40)) }

// Holders lists the processes of this user, other than this one, that have the
// file open or were started with its path: an editor that went on in the
// background. An editor that was running before is not seen.
func Holders(path string) []Holder {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var hs []Holder
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", p.Name())
		if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); err != nil || !bytes.Contains(args, []byte(path)) && !hasOpen(dir, path) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		hs = append(hs, Holder{pid, string(bytes.TrimSpace(name))})
	}
	return hs
}

func hasOpen(proc, path string) bool {
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return false // another user's, or it ended
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil && to == path {
			return true
		}
	}
	return false
}
