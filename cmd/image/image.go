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

// Cmd builds "aivm image".
func (a Verbs) Cmd() *cobra.Command {
	return cli.Group("image", "List, fetch, verify and remove guest images", `  aivm image list
  aivm image fetch ubuntu-24.04
`, a.imageListCmd(), a.FetchCmd("fetch"), a.imageVerifyCmd(), a.imageRemoveCmd())
}

// completeCached offers the names of the images in the cache.
func (a Verbs) completeCached(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	e, err := a.Provision("complete")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return e.Cache.Names(), cobra.ShellCompDirectiveNoFileComp
}

func (a Verbs) imageListCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List cached guest images and those available to fetch", Args: cli.NoArgs,
		Long: `List the guest images in the cache, with their size, release, how they were verified
and which VMs use them; then the images available to fetch. No server is contacted.

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
			name = "only in the storage pool"
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
	a.UI.Result("Available")
	for _, r := range l.Catalogue {
		var marks []string
		if r.MB > 0 {
			marks = append(marks, "about "+strconv.Itoa(r.MB)+" MB")
		}
		if r.Default {
			marks = append(marks, "the default")
		}
		if r.Cached {
			marks = append(marks, "cached")
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

// FetchCmd builds "image fetch IMAGE" or, with another use, aivm 0.3's
// "host image-fetch --image IMAGE".
func (a Verbs) FetchCmd(use string) *cobra.Command {
	var name string
	var again bool
	full, arg := "aivm image fetch", " "
	if use != "fetch" {
		full, arg = "aivm host "+use, " --image "
	}
	c := &cobra.Command{
		Use: use, Short: "Download a guest image into the cache",
		Long: `Download a guest image into the cache, so that creating the first VM takes less time.
For an image of the catalogue ("aivm image list"), the newest build is downloaded if it
is newer than the cached one. An interrupted download is resumed.

Examples:
  ` + full + `
  ` + full + arg + `packages:debian-12
` + cli.ExitStatuses,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case use != "fetch":
				return cli.NoArgs(c, args)
			case len(args) > 1:
				return ui.Usage("%d images are given: one at a time", len(args))
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
					what = "is in the cache and is the newest build"
				}
				a.UI.Result("image %s (%s, %s, %d MB) %s", r.Image, r.SHA256[:min(16, len(r.SHA256))], r.Format, r.Size>>20, what)
			})
		},
	}
	if use == "fetch" {
		c.Use = "fetch [image]"
	}
	a.ImageFlag(c, &name, cli.ImageUsage)
	c.Flags().BoolVar(&again, "again", false, "fetch, build or copy it again although it is cached")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) imageVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify [image]...", Short: "Check cached images against their recorded digests",
		Long: `Read the given images in the cache, or all of them, and compare their SHA-256 digests
with those recorded when they were added.

Examples:
  aivm image verify
  aivm image verify ubuntu-24.04 --json

Exit status: 0 all images are intact; 1 wrong usage; 2 an image is damaged.`,
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
		a.UI.Result("The cache has no images.")
	}
	icon := map[string]string{"ok": "✅", "damaged": "❌"}
	for _, v := range vs {
		name := strings.Join(v.Names, ", ")
		if name == "" {
			name = v.SHA256[:min(16, len(v.SHA256))]
		}
		a.UI.Result("%s %s - %s", icon[v.State], name, v.Detail)
		for _, f := range v.Fix {
			a.UI.Result("     fix: %s", f)
		}
	}
}

func (a Verbs) imageRemoveCmd() *cobra.Command {
	var unused bool
	c := &cobra.Command{
		Use: "remove [image]...", Aliases: []string{"rm"}, Short: "Remove images no VM uses",
		Long: `Remove images from the cache and from libvirt's storage pool. An image that the disk of
a VM is based on is never removed.

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
				a.UI.Result("removed; %d MB freed", r.Freed>>20)
			})
		},
	}
	c.Flags().BoolVar(&unused, "unused", false, "remove all images no VM uses, including older builds and unfinished downloads")
	a.DryRunFlag(c)
	return c
}
