package cmd

import (
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// imageUsage is the help of every --image.
const imageUsage = "the guest image: auto, a name of aivm image list, an https address with #sha256=HEX, or a file"

func (a *app) imageCmd() *cobra.Command {
	return group("image", "List, get, check and remove guest images", `  aivm image list
  aivm image fetch ubuntu-24.04
`, a.imageListCmd(), a.imageFetchCmd("fetch"), a.imageVerifyCmd(), a.imageRemoveCmd())
}

// imageFlag is --image of a verb that may make a VM.
func (a *app) imageFlag(c *cobra.Command, to *string, usage string) {
	c.Flags().StringVar(to, "image", "", usage)
	_ = c.RegisterFlagCompletionFunc("image", a.completeImage)
}

// completeImage offers the catalogue, what was made here, and files.
func (a *app) completeImage(c *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(toComplete, "/~") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	e, err := a.provision("complete")
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return e.ImageWords(), cobra.ShellCompDirectiveDefault
}

// completeCached offers what the cache has.
func (a *app) completeCached(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	e, err := a.provision("complete")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return e.Cache.Named(), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) imageListCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the guest images that are here and those that can be had", Args: noArgs,
		Long: `List the guest images in the cache, with size, release, how they were verified
and which VMs use them, and those that can be had. No server is asked.

Examples:
  aivm image list
  aivm image list --json
` + exitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.provision("image-list")
			if err != nil {
				return err
			}
			l, err := e.Images(c.Context())
			if err != nil {
				return err
			}
			if a.ui.JSON {
				return a.ui.PrintJSON(l)
			}
			a.printImages(l)
			return nil
		},
	}
	return c
}

func (a *app) printImages(l provision.ImageListing) {
	a.ui.Result("Images")
	if len(l.Images) == 0 {
		a.ui.Result("  (none)")
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
		a.ui.Result("  - %s | %s | size=%s | release=%s | verified=%s | used_by=%s | state=%s",
			name, i.SHA256[:min(16, len(i.SHA256))], humanize.Bytes(uint64(size)), orDash(i.Release), orDash(i.Verified), orDash(used), i.State)
	}
	a.ui.Result("To be had")
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
		a.ui.Result("  - %s | %s | from=%s | arch=%s%s", r.Name, r.Title, r.From, strings.Join(r.Arches, ","), prefixed(" | ", strings.Join(marks, ", ")))
	}
	if l.Parts > 0 {
		a.ui.Result("Unfinished downloads: %s (aivm image remove --unused)", humanize.Bytes(uint64(l.Parts)))
	}
	if l.Usage != "known" {
		a.ui.Warn("which VMs use them is %s", l.Usage)
	}
	a.ui.Result("Cache: %s", l.Cache)
}

func prefixed(with, s string) string {
	if s == "" {
		return ""
	}
	return with + s
}

// imageFetchCmd is "image fetch IMAGE", and "host image-fetch --image IMAGE".
func (a *app) imageFetchCmd(use string) *cobra.Command {
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
` + exitStatuses,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case use != "fetch":
				return noArgs(c, args)
			case len(args) > 1:
				return ui.Usage("one image at a time, not %d", len(args))
			case len(args) == 1 && args[0] == "":
				return ui.Usage("the image's name is empty").Hint("aivm image list")
			}
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if use != "fetch" || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeImage(c, args, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && name != "" && name != args[0] {
				return ui.Usage("two images are named: %s and --image %s", quoteWord(args[0]), quoteWord(name))
			}
			if len(args) == 1 {
				name = args[0]
			}
			e, err := a.provision("image-fetch")
			if err != nil {
				return err
			}
			r, err := e.FetchImage(c.Context(), name, again)
			return a.show(r, err, func() {
				what := "is in the cache"
				if r.Newest {
					what = "is in the cache, and the newest there is"
				}
				a.ui.Result("image %s (%s, %s, %d MB) %s", r.Image, r.SHA256[:min(16, len(r.SHA256))], r.Format, r.Size>>20, what)
			})
		},
	}
	if use == "fetch" {
		c.Use = "fetch [image]"
	}
	a.imageFlag(c, &name, imageUsage)
	c.Flags().BoolVar(&again, "again", false, "get it anew although it is here: build it again, read the file again")
	a.dryRunFlag(c)
	return c
}

func (a *app) imageVerifyCmd() *cobra.Command {
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
			e, err := a.provision("image-verify")
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
			if a.ui.JSON {
				err = a.ui.PrintJSON(map[string]any{"schema": 1, "images": vs})
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

func (a *app) printVerified(vs []provision.Verified) {
	if len(vs) == 0 {
		a.ui.Result("There is no image in the cache.")
	}
	sign := map[string]string{"ok": "✅", "damaged": "❌"}
	for _, v := range vs {
		name := strings.Join(v.Names, ", ")
		if name == "" {
			name = v.SHA256[:min(16, len(v.SHA256))]
		}
		a.ui.Result("%s %s - %s", sign[v.State], name, v.Detail)
		for _, f := range v.Fix {
			a.ui.Result("     fix: %s", f)
		}
	}
}

func (a *app) imageRemoveCmd() *cobra.Command {
	var unused bool
	c := &cobra.Command{
		Use: "remove [image]...", Aliases: []string{"rm"}, Short: "Remove images no VM uses",
		Long: `Remove images from the cache and from libvirt's storage pool. An image that a
VM's disk stands on is never removed.

Examples:
  aivm image remove ubuntu-22.04
  aivm image remove --unused --dry-run
` + exitStatuses,
		ValidArgsFunction: a.completeCached,
		RunE: func(c *cobra.Command, args []string) error {
			e, err := a.provision("image-remove")
			if err != nil {
				return err
			}
			r, err := e.RemoveImages(c.Context(), args, unused)
			return a.show(r, err, func() {
				if !r.Changed {
					a.ui.Result("every image is used by a VM: nothing was removed")
					return
				}
				a.ui.Result("removed; %d MB are free again", r.Freed>>20)
			})
		},
	}
	c.Flags().BoolVar(&unused, "unused", false, "all that no VM uses, older releases and unfinished downloads too")
	a.dryRunFlag(c)
	return c
}
