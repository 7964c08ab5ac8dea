package transfer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/ui"
)

// keptRefs is the ref prefix for commits of deleted clones. No remote maps to it, so no fetch moves
// these refs and no prune removes them.
const keptRefs = "refs/aivm/kept/"

// KeepTracked keeps what was fetched from a deleted clone before a new clone replaces it. The
// remote-tracking refs will follow the new clone, and commits on no other ref would remain in a
// reflog only. It returns the refs it created.
func KeepTracked(ctx context.Context, h compare.Host) ([]string, error) {
	if len(h.Tracked) == 0 {
		return nil, nil
	}
	tips := slices.Compact(slices.Sorted(maps.Values(h.Tracked)))
	b, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Env: []string{"GIT_NO_LAZY_FETCH=1"}, Stdin: strings.NewReader(strings.Join(tips, "\n") + "\n"),
		Args: append(h.ConnectivityArgs(), "--stdin", "--not", "--exclude=refs/remotes/"+h.Remote+"/*", "--all"),
	})
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	onlyTracked := map[string]bool{}
	for _, oid := range hostgit.Lines(b) {
		onlyTracked[oid] = true
	}
	var in strings.Builder
	var kept []string
	for _, name := range slices.Sorted(maps.Keys(h.Tracked)) {
		if oid := h.Tracked[name]; onlyTracked[oid] {
			ref := keptRefs + h.Remote + "/" + name + "-" + oid[:10]
			fmt.Fprintf(&in, "update %s\x00%s\x00\x00", ref, oid)
			kept = append(kept, ref)
		}
	}
	if len(kept) == 0 {
		return nil, nil
	}
	_, err = hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Stdin: strings.NewReader("start\x00" + in.String() + "prepare\x00commit\x00"),
		Args: []string{"update-ref", "--stdin", "-z"},
	})
	if err != nil {
		return nil, ui.Failed("keeping the commits fetched from an earlier clone: %w", err).Hint(ui.Cmd("git -C " + shellescape.Quote(h.Repo.Top) + " for-each-ref refs/remotes/" + h.Remote))
	}
	return kept, nil
}

// keepForced does what KeepTracked does for only those refs that lose commits by moving to the
// commits of to, whose objects the host has.
func keepForced(ctx context.Context, h compare.Host, to map[string]string) ([]string, error) {
	lose := map[string]string{}
	for name, oid := range to {
		old := h.Tracked[name]
		if old == "" || old == oid {
			continue
		}
		_, err := h.Repo.Git(ctx, "merge-base", "--is-ancestor", old, oid)
		if err != nil && !hostgit.FailedWith(err, 1) {
			return nil, hostgit.ReadError(h.Repo, err)
		}
		if err != nil {
			lose[name] = old
		}
	}
	h.Tracked = lose
	return KeepTracked(ctx, h)
}
