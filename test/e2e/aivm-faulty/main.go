// Command aivm-faulty is aivm that can kill itself with SIGKILL at a fault point, for tests:
//
//   - AIVM_KILL_AT=NAME: at the fault point NAME;
//   - AIVM_WALK=FILE: at the first fault point that FILE does not list, after adding it to FILE.
//     Repeated runs with the same FILE are killed once at each fault point. With AIVM_WALK_AFTER=1 the
//     fault points before actions do not count.
//
// The shipped program has no such switch.
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
	onlyAfter := os.Getenv("AIVM_WALK_AFTER") == "1"
	os.Exit(cmd.Main(os.Args[1:], func(point string) {
		inWalk := walk != "" && !(onlyAfter && strings.HasSuffix(point, ":before"))
		if point == at || inWalk && addPoint(walk, point) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // do not continue until the signal is delivered
		}
	}))
}

// addPoint adds a fault point to the file and reports whether it was missing there.
func addPoint(walk, point string) bool {
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
