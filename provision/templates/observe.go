package templates

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/image"
)

// Source is the disk that a template is made from, as the facade found it: an image of the cache, or
// the plan to get it there.
type Source struct {
	Name    string // the image as the plan names it
	Entry   image.Entry
	Cached  bool
	Missing plan.Plan // gets it into the cache
}

// facts is what a setup's plan is made from.
type facts struct {
	Spec      Spec
	Section   config.Template // of the config, with the flags
	Record    bool            // the config has another section
	Source    Source
	Machinery Machinery
	Registry  registry
	Steps     []stepFact
	Current   *Published // the template of this name
	Rebuild   string     // why Current is replaced; "": it is not
	Fresh     time.Time  // layers older than this are not used (--upgrade)
}

// stepFact is a step and the layer that it made, if it is finished.
type stepFact struct {
	step
	Layer layer
	Done  bool
}

// OldAfter is how old a template gets before status and setup tell that --upgrade is due.
const OldAfter = 30 * 24 * time.Hour

// upgradeWindow is how long the layers of an interrupted --upgrade count as current if there is no
// template to compare them with.
const upgradeWindow = 24 * time.Hour

// observe reads what a plan needs, and changes nothing.
func (e Part) observe(ctx context.Context, o Options, src Source) (facts, error) {
	f := facts{Source: src}
	store, err := e.Load()
	if err != nil {
		return f, err
	}
	h := e.HostFacts()
	size := machineSize{CPUs: h.CPUs}
	if h.MemErr == nil {
		size.MemoryMB = h.MemTotalMB
	}
	if f.Spec, f.Section, err = newSpec(o, &store.Config, size); err != nil {
		return f, err
	}
	if f.Spec, err = f.Spec.withScript(e.Expand); err != nil {
		return f, err
	}
	if o.SetScript {
		f.Section.Script = f.Spec.Script
	}
	have, recorded := store.Config.TemplateNamed(f.Spec.Name)
	f.Record = !recorded || !sameSection(have, f.Section)
	if f.Machinery, err = e.Backend.Check(ctx); err != nil {
		return f, err
	}
	f.Registry = readRegistry(e.Home, e.Getenv, os.ReadFile)
	all, err := e.Backend.Published(&f.Machinery)
	if err != nil {
		return f, ui.Failed("reading the templates: %w", err)
	}
	f.Current = newest(all, f.Spec.Name)
	if o.Upgrade {
		f.Fresh = e.Now().Add(-upgradeWindow)
		if f.Current != nil {
			f.Fresh = f.Current.Created
		}
	}
	if src.Cached {
		if err := e.findSteps(&f); err != nil {
			return f, err
		}
	}
	f.Rebuild = whyRebuild(f, o.Upgrade)
	return f, nil
}

// findSteps determines the steps and which of them are finished.
func (e Part) findSteps(f *facts) error {
	for _, s := range f.Spec.steps(f.Source.Entry.SHA256, f.Registry) {
		l, ok, err := e.layers().find(s.digest)
		if err != nil {
			return err
		}
		// What follows a step that is repeated is repeated too.
		ok = ok && !l.Created.Before(f.Fresh) && (len(f.Steps) == 0 || f.Steps[len(f.Steps)-1].Done)
		f.Steps = append(f.Steps, stepFact{step: s, Layer: l, Done: ok})
	}
	return nil
}

// last returns the digest of the disk.
func (f facts) last() string {
	if len(f.Steps) == 0 {
		return ""
	}
	return f.Steps[len(f.Steps)-1].digest
}

// whyRebuild returns why the template of f's name cannot be used as it is; "" if it can.
func whyRebuild(f facts, upgrade bool) string {
	c := f.Current
	switch {
	case c == nil:
		return "there is none"
	case c.Damaged != "":
		return c.Damaged
	case upgrade:
		return "with current packages"
	case c.Stale != "":
		return c.Stale
	}
	if why := changedSpec(c.Setup.Spec, f.Spec); why != "" {
		return why
	}
	switch {
	case !f.Source.Cached:
		return "its image is to be fetched"
	case c.Setup.ImageSHA256 != f.Source.Entry.SHA256:
		return "the image " + f.Source.Name + " changed"
	case c.Setup.Digest != f.last():
		return "aivm installs other tools now"
	}
	return ""
}

// changedSpec names what differs between two specs of a template; "" if nothing does.
func changedSpec(have, want Spec) string {
	var out []string
	for _, c := range []struct {
		changed bool
		text    string
	}{
		{have.Image != want.Image, "the image is " + want.Image + ", not " + have.Image},
		{!sameList(have.Packages, want.Packages), "other packages are wanted"},
		{have.ScriptSHA256 != want.ScriptSHA256, "its script changed"},
		{have.MemoryMB != want.MemoryMB, fmt.Sprintf("%d MB of memory are wanted, not %d", want.MemoryMB, have.MemoryMB)},
		{have.CPUs != want.CPUs, fmt.Sprintf("%d CPUs are wanted, not %d", want.CPUs, have.CPUs)},
		{have.DiskGB != want.DiskGB, fmt.Sprintf("a disk of %d GB is wanted, not %d", want.DiskGB, have.DiskGB)},
	} {
		if c.changed {
			out = append(out, c.text)
		}
	}
	return strings.Join(out, "; ")
}

func sameSection(a, b config.Template) bool {
	return a.Image == b.Image && a.Script == b.Script && a.MemoryMB == b.MemoryMB && a.CPUs == b.CPUs && a.DiskGB == b.DiskGB && sameList(a.Packages, b.Packages)
}

// newest returns the newest template of a name, or nil.
func newest(all []Published, name string) *Published {
	var out *Published
	for i := range all {
		if all[i].Name == name && (out == nil || all[i].Created.After(out.Created)) {
			out = &all[i]
		}
	}
	return out
}

// readRegistry returns the npm registry of this user's npm settings, without its credentials. The
// last of environment, ~/.npmrc and the machine's npmrc that has no value leaves npm's default.
func readRegistry(home string, getenv func(string) string, read func(string) ([]byte, error)) registry {
	url, ca := getenv("npm_config_registry"), cmp.Or(getenv("npm_config_cafile"), getenv("NODE_EXTRA_CA_CERTS"))
	for _, p := range []string{filepath.Join(home, ".npmrc"), "/usr/etc/npmrc", "/usr/local/etc/npmrc", "/etc/npmrc"} {
		b, err := read(p)
		if err != nil || len(b) > maxMeta {
			continue
		}
		for l := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(l), "=")
			v = strings.Trim(strings.TrimSpace(v), `"'`)
			switch strings.TrimSpace(k) {
			case "registry":
				url = cmp.Or(url, v)
			case "cafile":
				ca = cmp.Or(ca, v)
			}
		}
	}
	r := registry{URL: cleanRegistry(url)}
	if ca != "" {
		if b, err := read(ca); err == nil && len(b) <= maxMeta {
			r.CA = b
		}
	}
	return r
}

// npmDomain has npm's own registry, which its default setting names.
const (
	npmDomain       = "npmjs.org"
	defaultRegistry = "https://registry." + npmDomain + "/"
)

// cleanRegistry returns the address of a registry without user and password; the default if it is no
// http address.
func cleanRegistry(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok || scheme != "https" && scheme != "http" || strings.ContainsAny(rest, " \t$\"'`\\") {
		return defaultRegistry
	}
	host, path, _ := strings.Cut(rest, "/")
	if _, h, found := strings.Cut(host, "@"); found {
		host = h
	}
	return scheme + "://" + host + "/" + path
}

// addresses returns HOST:PORT of http addresses, each once; others are left out.
func addresses(urls []string) []string {
	var out []string
	for _, u := range urls {
		scheme, rest, ok := strings.Cut(strings.TrimSpace(u), "://")
		port := map[string]string{"http": "80", "https": "443"}[scheme]
		if !ok || port == "" {
			continue
		}
		host, _, _ := strings.Cut(rest, "/")
		if i := strings.LastIndex(host, "@"); i >= 0 {
			host = host[i+1:]
		}
		if !strings.Contains(host[strings.LastIndex(host, "]")+1:], ":") {
			host += ":" + port
		}
		if len(host) < 260 && !slices.Contains(out, host) && len(out) < 16 {
			out = append(out, host)
		}
	}
	return out
}
