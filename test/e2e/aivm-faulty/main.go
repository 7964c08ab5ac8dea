// Command aivm-faulty is aivm with a hook at its fault points: it kills itself
// with SIGKILL at the point named in AIVM_KILL_AT and logs every point it
// passes to the file named in AIVM_POINTS. It exists for tests only; the
// shipped program has no such switch.
package main

import (
	"fmt"
	"os"
	"syscall"

	"aivm.dev/aivm/cmd"
)

func main() {
	at, log := os.Getenv("AIVM_KILL_AT"), os.Getenv("AIVM_POINTS")
	os.Exit(cmd.Main(os.Args[1:], func(point string) {
		if log != "" {
			if f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				fmt.Fprintln(f, point)
				_ = f.Close()
			}
		}
		if point == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}))
}
