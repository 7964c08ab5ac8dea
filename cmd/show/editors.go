package show

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
)

// EditorsCmd builds "aivm editors".
func (a Verbs) EditorsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "editors",
		Short: "List the editors aivm can open a folder with",
		Long: `List the editors aivm knows, with how each is started if it is installed here. A star
marks the one "aivm code" opens. To use another one, give "aivm code" --editor ID, or
set "default" in the section [editor] of the config.

Examples:
  aivm editors
  aivm editors --json
` + cli.ExitStatuses,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			e, err := a.Provision("editors")
			if err != nil {
				return err
			}
			facts, err := e.Editors()
			if err != nil {
				return err
			}
			if a.UI.JSON {
				return a.UI.PrintJSON(map[string]any{"schema": 1, "editors": facts})
			}
			for _, f := range facts {
				mark, how := " ", "not installed"
				if f.Default {
					mark = "*"
				}
				switch {
				case f.How == "built in":
					how = "always available"
				case f.Found:
					how = f.How + ": " + strings.Join(f.Command, " ")
				case f.Why != "":
					how = "not usable: " + f.Why
				case f.Install != "":
					how = "not installed; " + f.Install
				}
				a.UI.Result("%s %-13s %-26s %s", mark, f.ID, f.Name, ui.Clean(how))
			}
			return nil
		},
	}
}
