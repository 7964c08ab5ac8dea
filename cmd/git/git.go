package git

import (
	"context"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// Cmd is `aivm git`.
func (a Verbs) Cmd() *cobra.Command {
	return cli.Group("git", "Move commits between a repository and its clone in a VM", `  aivm git status
  aivm git pull
`, a.gitPushCmd(), a.gitFetchCmd(), a.gitPullCmd(), a.gitStatusCmd(), a.gitDiffCmd(), a.gitLogCmd())
}

// gitVerb is what the verbs of `git` share.
func (a Verbs) gitVerb(name, short, long string, o *provision.GitOptions, run func(*provision.Env, context.Context, provision.GitOptions) error) *cobra.Command {
	c := &cobra.Command{
		Use: name + " [folder]", Short: short, Long: long + cli.ExitStatuses,
		ValidArgsFunction: a.CompleteAttached,
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
	a.VMFlag(c, &o.VM, "the VM that has the clone")
	return c
}

func (a Verbs) gitPushCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("push", "Push the branch here to the clone in the VM", `Push the branch that is checked out here, and the tags on it, to the clone in the
VM, which checks it out. Nothing is lost there: if files in the VM are not
committed, or it has commits of its own on the branch, the push is refused and
says what to do.

With --include-uncommitted the uncommitted state goes along, new files too,
ignored ones not, as a commit on refs/aivm/wip/BRANCH in the VM; neither the index,
the files nor the branch here are touched. Its files are put into the VM's folder
if that has no changes of its own.

Examples:
  aivm git push
  aivm git push ~/project --include-uncommitted
`, &o, func(e *provision.Env, ctx context.Context, o provision.GitOptions) error {
		r, err := e.GitPush(ctx, o)
		return a.Show(r, err, func() { a.printPushed(r) })
	})
	c.Flags().BoolVar(&o.Wip, "include-uncommitted", false, "send what is not committed too")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) gitFetchCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("fetch", "Fetch what was committed in the VM", `Fetch what was committed in the VM, on all its branches, to refs/remotes/aivm-VM/.
No branch, file or tag here is changed. What comes is checked before it becomes
part of the repository.

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
	c := a.gitVerb("pull", "Fast-forward the branch here to the VM's", `Fetch, then fast-forward the branch that is checked out here to what was committed
on it in the VM. Anything but a fast-forward is refused. Files among it that this
machine may run or obey by itself (hooks, Makefile, .envrc, editor tasks, programs,
.gitattributes, what git's settings name) are listed first, and asked about.

Filters of git's settings here (git-lfs is one) are not run: files come as they are
committed, and the command that runs them by hand is printed. To have them run by
the pull, repeat it with the --run-filters that it printed: it agrees to that list,
and to no other.

Examples:
  aivm git pull
  aivm git pull --yes
`, &o, func(e *provision.Env, ctx context.Context, o provision.GitOptions) error {
		r, err := e.GitPull(ctx, o)
		return a.Show(r, err, func() { a.printPulled(r) })
	})
	c.Flags().StringVar(&o.RunFilters, "run-filters", "", "agree to the `LIST` of this name, and run its filters")
	a.maxSizeFlag(c, &o)
	a.DryRunFlag(c)
	return c
}

func (a Verbs) gitStatusCmd() *cobra.Command {
	var o provision.GitOptions
	return a.gitVerb("status", "Compare a repository with its clone in the VM", `Compare a repository with its clone in the VM: commits to push and to pull, and
what is not committed on either side. A VM that is off stays off.

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
	c := a.gitVerb("diff", "Show what was changed in the VM", `Show what the commits in the VM change, from where its branch left the one here.
What is not committed there is not shown: aivm git status names it.

Examples:
  aivm git diff
  aivm git diff --stat --branch agent/idea
`, &o, (*provision.Env).GitDiff)
	c.Flags().BoolVar(&o.Stat, "stat", false, "only which files, and how much")
	a.theirsFlags(c, &o)
	return c
}

func (a Verbs) gitLogCmd() *cobra.Command {
	var o provision.GitOptions
	c := a.gitVerb("log", "List the commits of the VM that are not here", `List the commits of the VM that are not on the branch here.

Examples:
  aivm git log
  aivm git log --branch agent/idea
`, &o, (*provision.Env).GitLog)
	a.theirsFlags(c, &o)
	return c
}

func (a Verbs) theirsFlags(c *cobra.Command, o *provision.GitOptions) {
	c.Flags().StringVar(&o.Branch, "branch", "", "the branch of the VM (default: the one checked out there)")
	c.Flags().BoolVar(&o.NoFetch, "no-fetch", false, "as it was fetched last")
}

// size is the value of --max-size.
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
		return ui.Usage("%q is no size", v).Hint(ui.Remark("for example: --max-size 8GiB"))
	}
	*s.to = int64(n)
	return nil
}

func (a Verbs) maxSizeFlag(c *cobra.Command, o *provision.GitOptions) {
	c.Flags().Var(size{&o.MaxSize}, "max-size", "how much the VM may send (default 4 GiB)")
}
