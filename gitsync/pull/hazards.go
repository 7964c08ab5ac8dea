package pull

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/ui"
)

// Hazards lists the host-executed files among the changes: those for which runs is true, files that
// git's configuration reads or runs, files that became executable, links out of the repository,
// submodules.
func Hazards(ctx context.Context, h compare.Host, cs []Change, runs func(string) bool) ([]string, error) {
	var out []string
	obeyed, err := h.Repo.Obeyed(ctx)
	if err != nil {
		return nil, err
	}
	var links []Change
	for _, c := range cs {
		why := obeyed.Why(c.Path)
		if at := filepath.Join(h.Repo.Top, c.Path); writable.Within(at, h.Repo.GitDir) || writable.Within(at, h.Repo.CommonDir) {
			why = "git reads it: it is in the git directory"
		}
		switch {
		case c.What == "D" && (why != "" || hostgit.ObeyedName(c.Path)):
			out = append(out, c.Path+" (removed)")
		case c.What == "D":
		case why != "":
			out = append(out, c.Path+" ("+why+")")
		case hostgit.ObeyedName(c.Path):
			out = append(out, c.Path)
		case runs(c.Path):
			out = append(out, c.Path)
		case c.Mode == "100755":
			out = append(out, c.Path+" (executable)")
		case c.Mode == "120000":
			links = append(links, c)
		case c.Mode == "160000":
			out = append(out, c.Path+" (submodule)")
		}
	}
	// Files that git obeys come first, since the list can be long.
	slices.SortStableFunc(out, func(a, b string) int { return rank(a) - rank(b) })
	if len(links) == 0 {
		return out, nil
	}
	sizes, err := sizes(ctx, h, links)
	if err != nil {
		return nil, err
	}
	var in strings.Builder
	kept := links[:0]
	for i, c := range links {
		if sizes[i] > 4096 { // PATH_MAX: git cannot create such a link
			out = append(out, c.Path+" (a link with an invalid target)")
			continue
		}
		kept = append(kept, c)
		in.WriteString(c.Object + "\n")
	}
	links = kept
	b, err := hostgit.Run(ctx, hostgit.Call{Repo: h.Repo, Args: []string{"cat-file", "--batch"}, Stdin: strings.NewReader(in.String())})
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	r := bufio.NewReader(bytes.NewReader(b))
	for _, c := range links {
		head, err := r.ReadString('\n')
		f := strings.Fields(head)
		if err != nil || len(f) != 3 {
			return nil, fmt.Errorf("cannot parse %q of git cat-file", ui.CleanTo(head, 100))
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			return nil, err
		}
		to := make([]byte, n+1)
		if _, err := io.ReadFull(r, to); err != nil {
			return nil, err
		}
		target := string(to[:n])
		end := path.Join(path.Dir(c.Path), target)
		if path.IsAbs(target) || end == ".." || strings.HasPrefix(end, "../") {
			out = append(out, c.Path+" (link to "+target+")")
		}
	}
	return out, nil
}

// rank returns 0 for a file that git's settings or links in the home directory name, 1 for one that
// git obeys by its name, 2 for others.
func rank(hazard string) int {
	switch {
	case strings.Contains(hazard, " (git "), strings.HasSuffix(hazard, " is a link to it)"):
		return 0
	case hostgit.ObeyedName(strings.TrimSuffix(hazard, " (removed)")):
		return 1
	}
	return 2
}
