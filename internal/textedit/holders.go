package textedit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/ui"
)

// Holder is a process that still uses a file.
type Holder struct {
	PID  int
	Name string
}

func (h Holder) String() string { return fmt.Sprintf("process %d: %s", h.PID, ui.CleanTo(h.Name, 40)) }

// Holders returns the other processes of this user that have the file open or its path in their
// arguments, such as an editor that continues in the background. An editor that was already running
// before the file was passed to it is not found.
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
		return false // the process belongs to another user, or has ended
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil && to == path {
			return true
		}
	}
	return false
}
