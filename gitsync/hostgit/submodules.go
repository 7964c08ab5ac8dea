package hostgit

import (
	"context"
	"path/filepath"
	"strings"
)

// MaxDepth bounds submodules of submodules.
const MaxDepth = 5

// submodules are those that git looks into by itself: gitlinks of the index
// with a repository in their place, and theirs, as deep as depth.
func (r Repo) submodules(ctx context.Context, depth int) ([]Repo, error) {
	if depth == 0 {
		return nil, nil
	}
	var links []string
	_, err := Run(ctx, Call{Repo: r, Args: []string{"ls-files", "--stage", "-z"}, Stdout: &strand{each: func(l string) {
		if meta, p, ok := strings.Cut(l, "\t"); ok && strings.HasPrefix(meta, "160000 ") {
			links = append(links, p)
		}
	}}})
	if err != nil {
		return nil, ReadError(r, err)
	}
	var out []Repo
	for _, p := range links {
		sub, err := r.Submodule(p)
		if err != nil {
			continue // not checked out
		}
		below, err := sub.submodules(ctx, depth-1)
		if err != nil {
			return nil, err
		}
		out = append(append(out, sub), below...)
	}
	return out, nil
}

// Quiet are the arguments that keep git from starting what submodules would
// have it start, where it looks into them.
func (r Repo) Quiet(ctx context.Context) ([]string, error) {
	subs, err := r.submodules(ctx, MaxDepth)
	var out []string
	for _, sub := range subs {
		s, err := sub.settings(ctx)
		if err != nil {
			return nil, err
		}
		off, err := s.arguments(nil)
		if err != nil {
			return nil, err
		}
		out = append(out, off...)
	}
	return out, err
}

// Submodule is the repository of the submodule whose place in the work tree is at.
func (r Repo) Submodule(at string) (Repo, error) {
	top := filepath.Join(r.Top, at)
	sub, err := open(top, filepath.Join(top, ".git"))
	sub.guests = r.guests
	return sub, err
}
