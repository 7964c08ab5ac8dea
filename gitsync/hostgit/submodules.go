package hostgit

import (
	"context"
	"path/filepath"
	"strings"
)

// MaxDepth bounds the nesting of submodules.
const MaxDepth = 5

// submodules lists the submodules that git reads without being asked: gitlinks of the index with a
// repository at their path, and their own submodules down to depth levels.
func (r Repo) submodules(ctx context.Context, depth int) ([]Repo, error) {
	if depth == 0 {
		return nil, nil
	}
	var links []string
	_, err := Run(ctx, Call{Repo: r, Args: []string{"ls-files", "--stage", "-z"}, Stdout: &nulSplitter{each: func(l string) {
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

// SubmoduleArgs returns the arguments that keep git from starting what the configuration of
// submodules names when it reads them.
func (r Repo) SubmoduleArgs(ctx context.Context) ([]string, error) {
	subs, err := r.submodules(ctx, MaxDepth)
	var out []string
	for _, sub := range subs {
		s, err := sub.settings(ctx)
		if err != nil {
			return nil, err
		}
		off, err := s.switchOffArgs(nil)
		if err != nil {
			return nil, err
		}
		out = append(out, off...)
	}
	return out, err
}

// Submodule opens the repository of the submodule at path at in the work tree.
func (r Repo) Submodule(at string) (Repo, error) {
	top := filepath.Join(r.Top, at)
	sub, err := open(top, filepath.Join(top, ".git"))
	sub.guests = r.guests
	return sub, err
}
