package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Fixed returns a completion function that offers words.
func Fixed(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeVM offers the names of the VMs in the config.
func (a *App) completeVM(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, (*config.Config).VMNames)
}

// CompleteFolder offers directories.
func CompleteFolder(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// CompleteNetwork offers the names of the networks in the config.
func (a *App) CompleteNetwork(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(args, func(c *config.Config) (names []string) {
		for _, n := range c.Networks {
			names = append(names, n.Name)
		}
		return names
	})
}

// completeFromStore offers names from the config, for the first argument only.
func (a *App) completeFromStore(args []string, names func(*config.Config) []string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	path, err := a.StorePath()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := config.Load(path)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names(&s.Config), cobra.ShellCompDirectiveNoFileComp
}

// CompleteTemplate offers the names of the templates in the config, as the value of a flag.
func (a *App) CompleteTemplate(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.completeFromStore(nil, (*config.Config).TemplateNames)
}

// CompleteRun offers the names of the runs that are alive and not given yet.
func (a *App) CompleteRun(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	e, err := a.Provision("complete")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	runs, err := e.Runs()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, r := range runs {
		if !slices.Contains(args, r.Name) {
			names = append(names, r.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// CompleteOneRun is CompleteRun for the first argument only.
func (a *App) CompleteOneRun(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.CompleteRun(c, args, word)
}

// CompleteImage offers the images of the catalogue, those prepared on this host, and
// files.
func (a *App) CompleteImage(c *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(toComplete, "/~") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	e, err := a.Provision("complete")
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return e.ImageWords(), cobra.ShellCompDirectiveDefault
}

// CompleteAttached offers the attached folders in the config, of the VM of --vm if that is given.
func (a *App) CompleteAttached(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.completeFolders(c, args, word, func(config.Attachment) bool { return true })
}

// CompleteCloned offers the attached folders in mode git.
func (a *App) CompleteCloned(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.completeFolders(c, args, word, func(r config.Attachment) bool { return provision.Cloned(r) })
}

// completeFolders offers the attached folders that are wanted, each in the form that word begins:
// absolute, or relative to the working directory.
func (a *App) completeFolders(c *cobra.Command, args []string, word string, wanted func(config.Attachment) bool) ([]string, cobra.ShellCompDirective) {
	vm := ""
	if f := c.Flags().Lookup("vm"); f != nil {
		vm = f.Value.String()
	}
	cwd, _ := os.Getwd()
	return a.completeFromStore(args, func(s *config.Config) (folders []string) {
		for _, r := range s.Attachments {
			if vm != "" && r.VMName != vm || !wanted(r) {
				continue
			}
			for _, p := range []string{r.HostPath, r.TypedPath} {
				p = typedAs(p, cwd, word)
				if p != "" && !slices.Contains(folders, p) && ui.Clean(p) == p {
					folders = append(folders, p)
				}
			}
		}
		return folders
	})
}

// typedAs returns the path p in the form that begins with word, "" if there is none.
func typedAs(p, cwd, word string) string {
	forms := []string{p}
	if rel, err := filepath.Rel(cwd, p); err == nil && p != "" && filepath.IsAbs(cwd) && !filepath.IsAbs(word) {
		forms = []string{rel, "./" + rel, p}
		if word == "" && strings.HasPrefix(rel, "../") {
			forms = []string{p}
		} else if strings.HasPrefix(rel, "-") {
			forms = forms[1:]
		}
	}
	for _, f := range forms {
		if f != "" && strings.HasPrefix(f, word) {
			return f
		}
	}
	return ""
}
