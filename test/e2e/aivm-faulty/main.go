// Command aivm-faulty is aivm with a hook at its fault points. With AIVM_KILL_AT
// it kills itself with SIGKILL at the point of that name; with AIVM_WALK, the
// path of a file, at the first point that is not in the file, after it added
// it. Run again and again with one file it dies once at every point. It exists
// for tests only; the shipped program has no such switch.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"aivm.dev/aivm/cmd"
)

func main() {
	at, walk := os.Getenv("AIVM_KILL_AT"), os.Getenv("AIVM_WALK")
	os.Exit(cmd.Main(os.Args[1:], func(point string) {
		if point == at || walk != "" && first(walk, point) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // no step further while the signal is on its way
		}
	}))
}

// first adds a point to the file and reports whether it was not there.
func first(walk, point string) bool {
	b, err := os.ReadFile(walk)
	if err == nil && slices.Contains(strings.Split(string(b), "\n"), point) {
		return false
	}
	f, err := os.OpenFile(walk, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	fmt.Fprintln(f, point)
	_ = f.Close()
	return true
}
