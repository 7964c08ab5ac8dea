package carry

import (
	"context"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/ui"
)

// gitlinks returns the submodules of a commit: path -> commit.
func gitlinks(ctx context.Context, h compare.Host, commit string) (map[string]string, error) {
	b, err := h.Repo.Git(ctx, "ls-tree", "-r", "-z", commit)
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	out := map[string]string{}
	for _, l := range strings.Split(string(b), "\x00") {
		if meta, p, ok := strings.Cut(l, "\t"); ok && strings.HasPrefix(meta, "160000 ") {
			out[p] = strings.Fields(meta)[2]
		}
	}
	return out, nil
}

// submoduleNames returns the names of submodules by path, from the commit's .gitmodules.
func submoduleNames(ctx context.Context, h compare.Host, commit string) map[string]string {
	b, err := h.Repo.Git(ctx, "config", "-z", "--blob", commit+":.gitmodules", "--get-regexp", `^submodule\..*\.path$`)
	out := map[string]string{}
	if err != nil {
		return out
	}
	for _, l := range strings.Split(string(b), "\x00") {
		if k, v, ok := strings.Cut(l, "\n"); ok {
			name := strings.TrimSuffix(strings.TrimPrefix(k, "submodule."), ".path")
			if name != "" && !slices.Contains(strings.Split(name, "/"), "..") {
				out[v] = name
			}
		}
	}
	return out
}

// Submodules sends the submodules of the pushed commit to the clone, from their repositories on the
// host. missing says which could not be sent, and why.
func Submodules(ctx context.Context, p transfer.Peer, h compare.Host) (carried, missing []string, err error) {
	return carry(ctx, p, h, h.Head, p.Dir, ".git", 0)
}

// carry sends the submodules of one repository: dir is its work tree in the guest, gitDir its git
// directory relative to dir.
func carry(ctx context.Context, p transfer.Peer, h compare.Host, commit, dir, gitDir string, depth int) (carried, missing []string, err error) {
	links, err := gitlinks(ctx, h, commit)
	if err != nil || len(links) == 0 {
		return nil, nil, err
	}
	if depth == hostgit.MaxDepth {
		return nil, []string{fmt.Sprintf("submodules of %s are nested deeper than %d", ui.Clean(dir), hostgit.MaxDepth)}, nil
	}
	names := submoduleNames(ctx, h, commit)
	var ready []string
	for _, at := range slices.Sorted(maps.Keys(links)) {
		want := links[at]
		name := names[at]
		sub, serr := h.Repo.Submodule(at)
		if name == "" || serr != nil || !writable.Within(sub.GitDir, h.Repo.CommonDir) && !writable.Within(sub.GitDir, sub.Top) {
			missing = append(missing, fmt.Sprintf("submodule %s is not checked out on this machine: run git submodule update --init, then push again", ui.Clean(at)))
			continue
		}
		sh := compare.Host{Repo: sub, Remote: h.Remote, Format: h.Format, Branch: "aivm", Head: want, Partial: true} // packed by the git program, since it may be shallow
		if have, herr := sh.Has(ctx, []string{want}); herr != nil || have[want] != "commit" {
			missing = append(missing, fmt.Sprintf("submodule %s lacks commit %s on this machine: run git submodule update, then push again", ui.Clean(at), want[:10]))
			continue
		}
		modules := path.Join(dir, gitDir, "modules", name)
		old, _, rerr := p.Script(ctx, "creating the submodule "+at, guestscript.Submodule, modules, h.Format)
		if rerr != nil {
			return carried, missing, rerr
		}
		if old = strings.TrimSpace(old); old != want {
			if !compare.OID(old) {
				old = ""
			}
			sp := p
			sp.Dir = modules
			if _, err := transfer.Push(ctx, sp, sh, []compare.RefUpdate{{Ref: "refs/aivm/submodule", Old: old, New: want}}, nil, nil); err != nil {
				missing = append(missing, fmt.Sprintf("submodule %s: %v", ui.Clean(at), err))
				continue
			}
		}
		ready = append(ready, at)
	}
	if len(ready) > 0 {
		out, code, err := p.Script(ctx, "checking out submodules", guestscript.CheckoutSubmodules, append([]string{dir}, ready...)...)
		if err != nil {
			return carried, missing, err
		}
		if code != 100 {
			missing = append(missing, "submodules could not be checked out in the VM: "+ui.CleanTo(strings.TrimSpace(out), 300))
			return carried, missing, nil
		}
	}
	for _, at := range ready {
		carried = append(carried, at)
		sub, _ := h.Repo.Submodule(at)
		sh := compare.Host{Repo: sub, Remote: h.Remote, Format: h.Format}
		// The .git of its work tree is a file; the git directory is below modules.
		c, m, err := carryNested(ctx, p, sh, links[at], path.Join(dir, at), path.Join(dir, gitDir, "modules", names[at]), depth+1)
		carried, missing = append(carried, c...), append(missing, m...)
		if err != nil {
			return carried, missing, err
		}
	}
	return carried, missing, nil
}

// carryNested calls carry for a submodule, whose git directory is outside its work tree.
func carryNested(ctx context.Context, p transfer.Peer, h compare.Host, commit, dir, gitDir string, depth int) ([]string, []string, error) {
	rel, err := filepath.Rel(dir, gitDir)
	if err != nil {
		return nil, nil, err
	}
	return carry(ctx, p, h, commit, dir, rel, depth)
}
