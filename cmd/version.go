package cmd

import (
	"cmp"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
)

// build is the JSON output of "aivm version". Commit and Time are empty if Go did not find the
// repository when it built the program; Modified tells that the program differs from the commit.
type build struct {
	Schema   int    `json:"schema"`
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"` // of the commit
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// builtAs returns what Go recorded in the program about its version.
func builtAs() build {
	b := build{Schema: 1, Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = cmp.Or(info.Main.Version, b.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String returns the line that "aivm version" prints.
func (b build) String() string {
	about := []string{b.Go + " " + b.Platform}
	if b.Commit != "" {
		commit := "commit " + b.Commit[:min(len(b.Commit), 12)] + cli.Prefixed(" of ", b.Time)
		if b.Modified {
			commit += ", modified"
		}
		about = append([]string{commit}, about...)
	}
	return "aivm " + b.Version + " (" + strings.Join(about, "; ") + ")"
}

func (a app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of aivm", Args: cli.NoArgs,
		Long: `Print the version of aivm, the commit it was built from, and Go's version.
"aivm --version" prints the same.

Examples:
  aivm version
  aivm version --json
` + cli.ExitStatuses,
		RunE: func(*cobra.Command, []string) error { return a.printVersion() },
	}
}

func (a app) printVersion() error {
	b := builtAs()
	if a.UI.JSON {
		return a.UI.PrintJSON(b)
	}
	a.UI.Result("%s", b)
	return nil
}
