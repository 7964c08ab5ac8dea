package hostgit

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
)

// A Filter is a program of git's configuration that git would start for files
// of a commit, and that aivm does not start by itself.
type Filter struct {
	Name    string   `json:"name"`
	Command string   `json:"command"`
	From    string   `json:"from"` // the configuration file
	Files   []string `json:"files"`
	// Values are all its settings.
	Values map[string]string `json:"-"`
}

// Filters are the filters that git would start to write files of the commit to.
// memory bounds the git that unfolds its trees.
func (r Repo) Filters(ctx context.Context, to string, names []string, memory uint64) ([]Filter, error) {
	s, err := r.settings(ctx)
	if err != nil || len(s.drivers()) == 0 || len(names) == 0 {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "aivm-attributes-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // ours; nothing is mounted there
	env := []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	if _, err := Run(ctx, Call{Repo: r, Env: env, Memory: memory, Args: []string{"read-tree", to}}); err != nil {
		return nil, ReadError(r, err)
	}
	return r.filtersOf(ctx, s, names, env, "--cached")
}

// filtersOf groups files by the configured filter that their attributes choose.
func (r Repo) filtersOf(ctx context.Context, s *settings, names, env []string, options ...string) ([]Filter, error) {
	drivers := s.drivers()
	found := map[string]*Filter{}
	var file string
	field := 0 // FILE, "filter", VALUE
	_, err := Run(ctx, Call{
		Repo: r, Env: env, Stdin: strings.NewReader(strings.Join(names, "\x00") + "\x00"),
		Stdout: &strand{each: func(f string) {
			switch field++; field {
			case 1:
				file = f
			case 3:
				field = 0
				if d, ok := drivers[f]; ok {
					if found[f] == nil {
						found[f] = &Filter{Name: f, Command: cmp.Or(d["process"], d["smudge"], d["clean"]), From: s.from(f), Values: d}
					}
					found[f].Files = append(found[f].Files, file)
				}
			}
		}},
		Args: slices.Concat([]string{"check-attr", "-z", "--stdin"}, options, []string{"filter"}),
	})
	if err != nil {
		return nil, ReadError(r, err)
	}
	var out []Filter
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[name])
	}
	return out, nil
}

// strand hands on what NUL bytes end.
type strand struct {
	rest []byte
	each func(string)
}

func (s *strand) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		i := bytes.IndexByte(s.rest, 0)
		if i < 0 {
			return len(p), nil
		}
		s.each(string(s.rest[:i]))
		s.rest = s.rest[i+1:]
	}
}

// from is the file that has the last word on a filter.
func (s *settings) from(filter string) string {
	at := ""
	for _, v := range s.all {
		if section, _ := sectionOf(v.key); section == "filter" && subsectionOf(v.key) == filter {
			at = v.file
		}
	}
	return at
}

// arguments switch off what the configuration would run, but for the filters
// of allow, which are given as they were seen.
func (s *settings) arguments(allow []Filter) ([]string, error) {
	drivers := s.drivers()
	skip := map[string]bool{}
	var out []string
	for _, f := range allow {
		if !maps.Equal(f.Values, drivers[f.Name]) {
			return nil, ui.Refused("the filter %s was set otherwise meanwhile", ui.Clean(f.Name)).Hint(ui.Remark("run the command again"))
		}
		for _, kv := range filterKeys(f.Name) {
			skip[kv] = true
		}
		for _, k := range slices.Sorted(maps.Keys(f.Values)) {
			out = append(out, "-c", "filter."+f.Name+"."+k+"="+f.Values[k])
		}
	}
	for _, kv := range s.off {
		if !skip[kv] {
			out = append(out, "-c", kv)
		}
	}
	return out, nil
}

// switchOff makes the arguments that keep git from starting what the
// configuration names and no option of a command switches off.
func (s *settings) switchOff(r Repo) error {
	done := map[string]bool{}
	for _, v := range s.all {
		section, name := sectionOf(v.key)
		sub := subsectionOf(v.key)
		var set []string
		switch {
		case section == "filter" && subsected(v.key):
			set = filterKeys(sub)
		case section == "hook" && subsected(v.key): // git 2.54 and newer
			set = []string{"hook." + sub + ".enabled=false"}
		case section == "branch" && name == "mergeoptions":
			set = []string{"branch." + sub + ".mergeOptions="}
		case v.key == "fetch.bundleuri":
			set = []string{"fetch.bundleURI="}
		}
		if len(set) == 0 || done[set[0]] {
			continue
		}
		done[set[0]] = true
		what := ""
		switch {
		case strings.ContainsRune(sub, '='):
			what = "a name that cannot be switched off"
		case sub == "" && (section == "filter" || section == "hook"):
			what = "an empty name, by which it cannot be told from none"
		}
		if what != "" {
			return ui.Refused("git on this machine is not started for %s: %s of %s has %s", ui.Clean(r.Top), ui.Clean(v.key), ui.Clean(v.file), what).
				Hint(ui.CmdFor("rename it", "git config --file "+shellescape.Quote(v.file)+" --rename-section "+shellescape.Quote(section+"."+sub)+" "+shellescape.Quote(section+"."+cmp.Or(strings.ReplaceAll(sub, "=", "-"), "unnamed"))))
		}
		s.off = append(s.off, set...)
	}
	return nil
}

// filterKeys set all of a filter to nothing.
func filterKeys(name string) []string {
	f := "filter." + name + "."
	return []string{f + "clean=", f + "smudge=", f + "process=", f + "required=false"}
}

// HasFilters reports whether a filter is configured.
func (r Repo) HasFilters(ctx context.Context) bool {
	s, err := r.settings(ctx)
	return err == nil && len(s.drivers()) > 0
}

// drivers are the filters that have a program, with their values.
func (s *settings) drivers() map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, v := range s.all {
		if section, name := sectionOf(v.key); section == "filter" && subsectionOf(v.key) != "" {
			sub := subsectionOf(v.key)
			if out[sub] == nil {
				out[sub] = map[string]string{}
			}
			out[sub][name] = v.value
		}
	}
	for name, d := range out {
		if d["clean"] == "" && d["smudge"] == "" && d["process"] == "" {
			delete(out, name)
		}
	}
	return out
}
