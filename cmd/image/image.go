package image

import (
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Cmd is `aivm image`.
func (a Verbs) Cmd() *cobra.Command {
	return cli.Group("image", "List, get, check and remove guest images", `  aivm image list
  aivm image fetch ubuntu-24.04
`, a.imageListCmd(), a.FetchCmd("fetch"), a.imageVerifyCmd(), a.imageRemoveCmd())
}

// completeCached offers what the cache has.
func (a Verbs) completeCached(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	e, err := a.Provision("complete")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return e.Cache.Names(), cobra.ShellCompDirectiveNoFileComp
}

func (a Verbs) imageListCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the guest images that are here and those that can be had", Args: cli.NoArgs,
		Long: `List the guest images in the cache, with size, release, how they were verified
and which VMs use them, and those that can be had. No server is asked.

Examples:
  aivm image list
  aivm image list --json
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.Provision("image-list")
			if err != nil {
				return err
			}
			l, err := e.Images(c.Context())
			if err != nil {
				return err
			}
			if a.UI.JSON {
				return a.UI.PrintJSON(l)
			}
			a.printImages(l)
			return nil
		},
	}
	return c
}

func (a Verbs) printImages(l provision.ImageListing) {
	a.UI.Result("Images")
	if len(l.Images) == 0 {
		a.UI.Result("  (none)")
	}
	for _, i := range l.Images {
		name := strings.Join(i.Names, ", ")
		switch {
		case name == "" && i.Source != "":
			name = i.Source + " (older)"
		case name == "":
			name = "in the storage pool alone"
		}
		size := i.Size
		if i.State == "pool" {
			size = i.Pooled
		}
		used := strings.Join(i.UsedBy, ", ")
		if l.Usage != "known" {
			used = "unknown"
		}
		a.UI.Result("  - %s | %s | size=%s | release=%s | verified=%s | used_by=%s | state=%s",
			name, i.SHA256[:min(16, len(i.SHA256))], humanize.Bytes(uint64(size)), cli.OrDash(i.Release), cli.OrDash(i.Verified), cli.OrDash(used), i.State)
	}
	a.UI.Result("To be had")
	for _, r := range l.Catalogue {
		var marks []string
		if r.MB > 0 {
			marks = append(marks, "about "+strconv.Itoa(r.MB)+" MB")
		}
		if r.Default {
			marks = append(marks, "the default")
		}
		if r.Cached {
			marks = append(marks, "is here")
		}
		a.UI.Result("  - %s | %s | from=%s | arch=%s%s", r.Name, r.Title, r.From, strings.Join(r.Arches, ","), cli.Prefixed(" | ", strings.Join(marks, ", ")))
	}
	if l.Parts > 0 {
		a.UI.Result("Unfinished downloads: %s (aivm image remove --unused)", humanize.Bytes(uint64(l.Parts)))
	}
	if l.Usage != "known" {
		a.UI.Warn("which VMs use them is %s", l.Usage)
	}
	a.UI.Result("Cache: %s", l.Cache)
}

// FetchCmd is "image fetch IMAGE", and "host image-fetch --image IMAGE".
func (a Verbs) FetchCmd(use string) *cobra.Command {
	var name string
	var again bool
	full, arg := "aivm image fetch", " "
	if use != "fetch" {
		full, arg = "aivm host "+use, " --image "
	}
	c := &cobra.Command{
		Use: use, Short: "Get a guest image into the cache",
		Long: `Get a guest image into the cache, so that the first VM is quicker to make. Of an
image of the catalogue the newest build is looked up, and fetched if it is newer
than the one that is here. What a broken download left is gone on with.

Examples:
  ` + full + `
  ` + full + arg + `packages:debian-12
` + cli.ExitStatuses,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case use != "fetch":
				return cli.NoArgs(c, args)
			case len(args) > 1:
				return ui.Usage("one image at a time, not %d", len(args))
			case len(args) == 1 && args[0] == "":
				return ui.Usage("the image's name is empty").Hint(ui.Cmd("aivm image list"))
			}
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if use != "fetch" || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.CompleteImage(c, args, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && name != "" && name != args[0] {
				return ui.Usage("two images are named: %s and --image %s", cli.QuoteWord(args[0]), cli.QuoteWord(name))
			}
			if len(args) == 1 {
				name = args[0]
			}
			e, err := a.Provision("image-fetch")
			if err != nil {
				return err
			}
			r, err := e.FetchImage(c.Context(), name, again)
			return a.Show(r, err, func() {
				what := "is in the cache"
				if r.Newest {
					what = "is in the cache, and the newest there is"
				}
				a.UI.Result("image %s (%s, %s, %d MB) %s", r.Image, r.SHA256[:min(16, len(r.SHA256))], r.Format, r.Size>>20, what)
			})
		},
	}
	if use == "fetch" {
		c.Use = "fetch [image]"
	}
	a.ImageFlag(c, &name, cli.ImageUsage)
	c.Flags().BoolVar(&again, "again", false, "get it anew although it is here: build it again, read the file again")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) imageVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify [image]...", Short: "Read images of the cache and compare their digests",
		Long: `Read images of the cache, all of them or those named, and compare their digests
with what they were when they were verified.

Examples:
  aivm image verify
  aivm image verify ubuntu-24.04 --json

Exit status: 0 all is well; 1 wrong usage; 2 an image is damaged.`,
		ValidArgsFunction: a.completeCached,
		RunE: func(c *cobra.Command, args []string) error {
			e, err := a.Provision("image-verify")
			if err != nil {
				return err
			}
			vs, err := e.VerifyImages(c.Context(), args)
			if err != nil {
				return err
			}
			bad := false
			for _, v := range vs {
				bad = bad || v.State != "ok"
			}
			if a.UI.JSON {
				err = a.UI.PrintJSON(map[string]any{"schema": 1, "images": vs})
			} else {
				a.printVerified(vs)
			}
			if err == nil && bad {
				return ui.Status(ui.ExitRefused)
			}
			return err
		},
	}
}

func (a Verbs) printVerified(vs []provision.Verified) {
	if len(vs) == 0 {
		a.UI.Result("There is no image in the cache.")
	}
	sign := map[string]string{"ok": "✅", "damaged": "❌"}
	for _, v := range vs {
		name := strings.Join(v.Names, ", ")
		if name == "" {
			name = v.SHA256[:min(16, len(v.SHA256))]
		}
		a.UI.Result("%s %s - %s", sign[v.State], name, v.Detail)
		for _, f := range v.Fix {
			a.UI.Result("     fix: %s", f)
		}
	}
}

func (a Verbs) imageRemoveCmd() *cobra.Command {
	var unused bool
	c := &cobra.Command{
		Use: "remove [image]...", Aliases: []string{"rm"}, Short: "Remove images no VM uses",
		Long: `Remove images from the cache and from libvirt's storage pool. An image that a
VM's disk stands on is never removed.

Examples:
  aivm image remove ubuntu-22.04
  aivm image remove --unused --dry-run
` + cli.ExitStatuses,
		ValidArgsFunction: a.completeCached,
		RunE: func(c *cobra.Command, args []string) error {
			e, err := a.Provision("image-remove")
			if err != nil {
				return err
			}
			r, err := e.RemoveImages(c.Context(), args, unused)
			return a.Show(r, err, func() {
				if !r.Changed {
					a.UI.Result("every image is used by a VM: nothing was removed")
					return
				}
				a.UI.Result("removed; %d MB are free again", r.Freed>>20)
			})
		},
	}
	c.Flags().BoolVar(&unused, "unused", false, "all that no VM uses, older releases and unfinished downloads too")
	a.DryRunFlag(c)
	return c
}
