// Command aivm gives a folder its own Ubuntu VM and opens an editor on it.
package main

import (
	"os"

	"aivm.dev/aivm/cmd"
	"aivm.dev/aivm/internal/userfs"
	"aivm.dev/aivm/internal/userstack"
)

func main() {
	switch os.Args[0] { // aivm starts itself under these names
	case userfs.Arg0:
		os.Exit(userfs.Main(os.Args[1:]))
	case userstack.Name:
		os.Exit(userstack.Main(os.Args[1:]))
	}
	os.Exit(cmd.Main(os.Args[1:], nil))
}
