package hostgit

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// A StatusEntry is one file in the output of `git status`.
type StatusEntry struct {
	Code string `json:"code"` // two letters (git-status(1))
	Path string `json:"path"`
	// Filter is the git filter of a file that could not be compared because aivm runs no filters.
	// The file may be unchanged.
	Filter string `json:"filter,omitempty"`
}

// ParseStatus parses `git status --porcelain=v1 -z`, from the host or from a guest.
func ParseStatus(s string) []StatusEntry {
	var out []StatusEntry
	parts := strings.Split(s, "\x00")
	for i := 0; i < len(parts); i++ {
		e := parts[i]
		if len(e) < 4 || e[2] != ' ' {
			continue
		}
		out = append(out, StatusEntry{Code: e[:2], Path: e[3:]})
		if e[0] == 'R' || e[0] == 'C' {
			i++ // skip the original path of a rename or copy
		}
	}
	return out
}

// Uncommitted lists the uncommitted files of the host's work tree.
func Uncommitted(ctx context.Context, r Repo) ([]StatusEntry, error) {
	es, err := r.Status(ctx, nil)
	for i, e := range es {
		if e.Code[1] != 'M' {
			es[i].Filter = "" // the content did not have to be compared
		}
	}
	return es, err
}

// Status runs git status with env, which may name another index, and adds to each file that differs
// the filter it passes through.
func (r Repo) Status(ctx context.Context, env []string, options ...string) ([]StatusEntry, error) {
	quiet, err := r.SubmoduleArgs(ctx)
	if err != nil {
		return nil, err
	}
	b, err := Run(ctx, Call{Repo: r, Env: env, SubmoduleArgs: quiet, Args: append([]string{"status", "--porcelain=v1", "-z", "--ignore-submodules=none"}, options...)})
	if err != nil {
		return nil, ReadError(r, err)
	}
	es := ParseStatus(string(b))
	s, err := r.settings(ctx)
	if err != nil || len(s.drivers()) == 0 || len(es) == 0 {
		return es, err
	}
	var names []string
	for _, e := range es {
		if st, err := os.Lstat(filepath.Join(r.Top, e.Path)); e.Code[1] != ' ' && e.Code[1] != 'D' && err == nil && st.Mode().IsRegular() {
			names = append(names, e.Path)
		}
	}
	if len(names) == 0 {
		return es, nil
	}
	fs, err := r.filtersOf(ctx, s, names, env)
	if err != nil {
		return nil, err
	}
	by := map[string]string{}
	for _, f := range fs {
		for _, n := range f.Files {
			by[n] = f.Name
		}
	}
	for i := range es {
		es[i].Filter = by[es[i].Path]
	}
	return es, nil
}
