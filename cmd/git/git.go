package git

import (
	"context"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Cmd builds "aivm git".
func (a Verbs) Cmd() *cobra.Command {
	return cli.Group("git", "Push and pull commits between a repository and its clone in a VM", `  aivm git status
  aivm git pull
`, a.gitPushCmd(), a.gitFetchCmd(), a.gitPullCmd(), a.gitStatusCmd(), a.gitDiffCmd(), a.gitLogCmd())
}

// gitVerb builds a command of "aivm git": it has a folder argument and --vm, and passes
// the options to run.
func (a Verbs) gitVerb(name, short, long string, o *provision.GitOptions, run func(*provision.Env, context.Context, provision.GitOptions) error) *cobra.Command {
	c := &cobra.Command{
		Use: name + " [folder]", Short: short, Long: long + cli.ExitStatuses,
		ValidArgsFunction: a.CompleteCloned,
		RunE: func(c *cobra.Command, args []string) error {
			e, folder, err := a.OnFolder("git "+name, args)
			if err != nil {
				return err
			}
			o.Folder = folder
			o.Line = func(l string) { a.UI.Result("%s", l) }
			return run(e, c.Context(), *o)
		},
	}
	a.VMFlag(c, &o.VM, "VM that has the clone (default: that of the folder)")
	return c
}

func (a Verbs) gitPushCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("push", "Push the current branch to the clone in the VM", `Push the branch checked out here, and the tags on it, to the clone in the VM, and check
it out there. If the clone has uncommitted files, or commits on the branch that are not
here, the push is refused with instructions, so nothing in the VM is lost.

With --include-uncommitted, your uncommitted changes are sent too, including new files
but not ignored ones: as a commit on refs/aivm/wip/BRANCH in the VM. Your branch, index
and files do not change. If the clone has no changes of its own, the sent files are
also written into its working tree.

Examples:
  aivm git push
  aivm git push ~/project --include-uncommitted
`, &o, func(e *provision.Env, ctx context.Context, o provision.GitOptions) error {
		r, err := e.GitPush(ctx, o)
		return a.Show(r, err, func() { a.printPushed(r) })
	})
	c.Flags().BoolVar(&o.Wip, "include-uncommitted", false, "also send uncommitted changes")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) gitFetchCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("fetch", "Fetch the commits made in the VM", `Fetch all branches of the clone in the VM to refs/remotes/aivm-VM/. Your branches, tags
and files do not change. All received objects are checked before they are added to the
repository.

Examples:
  aivm git fetch
  aivm git fetch && git log aivm-VM/main
`, &o, func(e *provision.Env, ctx context.Context, o provision.GitOptions) error {
		r, err := e.GitFetch(ctx, o)
		return a.Show(r, err, func() { a.printFetched(r) })
	})
	a.maxSizeFlag(c, &o)
	a.DryRunFlag(c)
	return c
}

func (a Verbs) gitPullCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("pull", "Fast-forward the current branch to the VM's", `Fetch from the clone in the VM, then fast-forward the branch checked out here to the
VM's branch of the same name. Anything but a fast-forward is refused. If the commits
change host-executed files, which programs on this machine run or obey (hooks,
Makefile, .envrc, editor tasks, executables, .gitattributes, files named in your git
config), these are listed and you are asked first.

Filters in your git config, such as git-lfs, are not run: files are written as they are
committed, and the command to run the filters yourself is printed. To let the pull run
them, repeat it with the --run-filters option it printed; this approves exactly that
list of filters and files.

Examples:
  aivm git pull
  aivm git pull --yes
`, &o, func(e *provision.Env, ctx context.Context, o provision.GitOptions) error {
		r, err := e.GitPull(ctx, o)
		return a.Show(r, err, func() { a.printPulled(r) })
	})
	c.Flags().StringVar(&o.RunFilters, "run-filters", "", "approve the `LIST` of filters and files that an earlier pull printed, and run them")
	a.maxSizeFlag(c, &o)
	a.DryRunFlag(c)
	return c
}

func (a Verbs) gitStatusCmd() *cobra.Command {
	var o provision.GitOptions
	return a.gitVerb("status", "Compare a repository with its clone in the VM", `Compare a repository with its clone in the VM: commits to push, commits to pull, and
uncommitted changes on both sides. A VM that is off is not started.

Examples:
  aivm git status
  aivm git status ~/project --json
`, &o, func(e *provision.Env, ctx context.Context, o provision.GitOptions) error {
		r, err := e.GitStatus(ctx, o)
		return a.Show(r, err, func() { a.printCompared(r) })
	})
}

func (a Verbs) gitDiffCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("diff", "Show the changes committed in the VM", `Show what the commits in the VM change, since its branch and the one here diverged.
Uncommitted changes in the VM are not shown; "aivm git status" lists them.

Examples:
  aivm git diff
  aivm git diff --stat --branch agent/idea
`, &o, (*provision.Env).GitDiff)
	c.Flags().BoolVar(&o.Stat, "stat", false, "print only a summary: changed files and numbers of lines")
	a.guestBranchFlags(c, &o)
	return c
}

func (a Verbs) gitLogCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("log", "List the commits in the VM that are not here", `List the commits on the VM's branch that are not on the branch checked out here.

Examples:
  aivm git log
  aivm git log --branch agent/idea
`, &o, (*provision.Env).GitLog)
	a.guestBranchFlags(c, &o)
	return c
}

// guestBranchFlags declares the flags that select a branch of the VM's clone.
func (a Verbs) guestBranchFlags(c *cobra.Command, o *provision.GitOptions) {
	c.Flags().StringVar(&o.Branch, "branch", "", "branch of the VM's clone (default: the one checked out there)")
	c.Flags().BoolVar(&o.NoFetch, "no-fetch", false, "use what was last fetched, do not contact the VM")
}

// size implements pflag.Value for --max-size, in bytes.
type size struct{ to *int64 }

// String implements pflag.Value.
func (s size) String() string {
	if s.to == nil || *s.to == 0 {
		return ""
	}
	return humanize.IBytes(uint64(*s.to))
}

// Type implements pflag.Value.
func (size) Type() string { return "SIZE" }

// Set implements pflag.Value.
func (s size) Set(v string) error {
	n, err := humanize.ParseBytes(v)
	if err != nil || n == 0 || n > 1<<50 {
		return ui.Usage("%q is not a valid size", v).Hint(ui.Remark("for example: --max-size 8GiB"))
	}
	*s.to = int64(n)
	return nil
}

func (a Verbs) maxSizeFlag(c *cobra.Command, o *provision.GitOptions) {
	c.Flags().Var(size{&o.MaxSize}, "max-size", "maximum amount of data the VM may send (default 4 GiB)")
}
