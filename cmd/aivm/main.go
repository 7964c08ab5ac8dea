// Command aivm gives a folder its own Ubuntu VM and opens an editor on it.
package main

import (
	"os"

	"aivm.dev/aivm/cmd"
)

func main() {
	os.Exit(cmd.Main(os.Args[1:], nil))
}
