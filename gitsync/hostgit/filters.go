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

// A Filter is a program in git's configuration that git would start for files of a commit, and that
// aivm does not start without the user's consent.
type Filter struct {
	Name    string   `json:"name"`
	Command string   `json:"command"`
	From    string   `json:"from"` // the configuration file
	Files   []string `json:"files"`
	// Values holds all the settings of the filter by name.
	Values map[string]string `json:"-"`
}

// Filters lists the filters that git would start to write the files names of commit to. memory
// limits the git process that reads the commit's trees, in bytes.
func (r Repo) Filters(ctx context.Context, to string, names []string, memory uint64) ([]Filter, error) {
	s, err := r.settings(ctx)
	if err != nil || len(s.drivers()) == 0 || len(names) == 0 {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "aivm-attributes-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // created above; nothing is mounted in it
	env := []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	if _, err := Run(ctx, Call{Repo: r, Env: env, Memory: memory, Args: []string{"read-tree", to}}); err != nil {
		return nil, ReadError(r, err)
	}
	return r.filtersOf(ctx, s, names, env, "--cached")
}

// filtersOf groups files by the configured filter that their attributes select.
func (r Repo) filtersOf(ctx context.Context, s *settings, names, env []string, options ...string) ([]Filter, error) {
	drivers := s.drivers()
	found := map[string]*Filter{}
	var file string
	field := 0 // of the triple FILE, "filter", VALUE
	_, err := Run(ctx, Call{
		Repo: r, Env: env, Stdin: strings.NewReader(strings.Join(names, "\x00") + "\x00"),
		Stdout: &nulSplitter{each: func(f string) {
			switch field++; field {
			case 1:
				file = f
			case 3:
				field = 0
				if d, ok := drivers[f]; ok {
					if found[f] == nil {
						found[f] = &Filter{Name: f, Command: cmp.Or(d["process"], d["smudge"], d["clean"]), From: s.filterSource(f), Values: d}
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

// nulSplitter is a writer that calls each for every NUL-terminated string.
type nulSplitter struct {
	rest []byte
	each func(string)
}

func (s *nulSplitter) Write(p []byte) (int, error) {
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

// filterSource returns the configuration file with the last setting of a filter, which is the one
// git uses.
func (s *settings) filterSource(filter string) string {
	at := ""
	for _, v := range s.all {
		if section, _ := sectionOf(v.key); section == "filter" && subsectionOf(v.key) == filter {
			at = v.file
		}
	}
	return at
}

// switchOffArgs returns the arguments that switch off everything the configuration would run,
// except the filters of allow, whose settings must not have changed since they were listed.
func (s *settings) switchOffArgs(allow []Filter) ([]string, error) {
	drivers := s.drivers()
	skip := map[string]bool{}
	var out []string
	for _, f := range allow {
		if !maps.Equal(f.Values, drivers[f.Name]) {
			return nil, ui.Refused("the settings of git filter %s changed while aivm was running", ui.Clean(f.Name)).Hint(ui.Remark("run the command again"))
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

// switchOff collects in s.off the settings that keep git from starting programs which the
// configuration names and which no command-line option switches off.
func (s *settings) switchOff(r Repo) error {
	done := map[string]bool{}
	for _, v := range s.all {
		section, name := sectionOf(v.key)
		sub := subsectionOf(v.key)
		var set []string
		switch {
		case section == "filter" && hasSubsection(v.key):
			set = filterKeys(sub)
		case section == "hook" && hasSubsection(v.key): // configured hooks, since git 2.54
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
			what = "a name with =, which cannot be overridden on git's command line"
		case sub == "" && (section == "filter" || section == "hook"):
			what = "an empty name, which git's command line cannot address"
		}
		if what != "" {
			return ui.Refused("not running git in %s: setting %s of %s has %s", ui.Clean(r.Top), ui.Clean(v.key), ui.Clean(v.file), what).
				Hint(ui.CmdFor("rename the section", "git config --file "+shellescape.Quote(v.file)+" --rename-section "+shellescape.Quote(section+"."+sub)+" "+shellescape.Quote(section+"."+cmp.Or(strings.ReplaceAll(sub, "=", "-"), "unnamed"))))
		}
		s.off = append(s.off, set...)
	}
	return nil
}

// filterKeys returns settings that clear every key of a filter.
func filterKeys(name string) []string {
	f := "filter." + name + "."
	return []string{f + "clean=", f + "smudge=", f + "process=", f + "required=false"}
}

// HasFilters reports whether a filter with a program is configured.
func (r Repo) HasFilters(ctx context.Context) bool {
	s, err := r.settings(ctx)
	return err == nil && len(s.drivers()) > 0
}

// drivers returns the filters that have a program, and their settings, by filter name.
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
