// The agent in one-shot VMs. scripts/programs.sh builds it; internal/program embeds it.
package main

import (
	"os"

	"aivm.dev/aivm/internal/guestd/agent"
)

func main() { os.Exit(agent.Main(os.Args)) }
