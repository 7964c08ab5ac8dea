package image

import (
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"
)

// A vendor publishes a distribution.
type vendor struct {
	name       string
	keyring    string // where keyPackage installs the keys, on the host and in the guest
	keyPackage string
	keyMark    string // part of the name of each of its keyrings
	path       string // start of the last element of its archive's path
	components string
	suites     []string // its suite names
	pockets    []string
}

var debianVendor = vendor{
	name: "Debian", keyring: "/usr/share/keyrings/debian-archive-keyring.gpg", keyPackage: "debian-archive-keyring", keyMark: "debian-archive",
	path: "debian", components: "main", pockets: []string{"updates", "security"},
	suites: []string{
		"bullseye", "bookworm", "trixie", "forky", "duke", "sid",
		"oldoldstable", "oldstable", "stable", "testing", "unstable",
	},
}

// The guest agent is in Ubuntu's component universe.
var ubuntuVendor = vendor{
	name: "Ubuntu", keyring: "/usr/share/keyrings/ubuntu-archive-keyring.gpg", keyPackage: "ubuntu-keyring", keyMark: "ubuntu-archive",
	path: "ubuntu", components: "main universe", pockets: []string{"updates", "security"},
	suites: []string{"focal", "jammy", "noble", "oracular", "plucky", "questing", "resolute", "devel"},
}

// aptEntry is one entry of a sources file: each URI with each suite.
type aptEntry struct {
	uris, suites, components []string
	options                  map[string]string // lower-case names: signed-by, trusted, check-valid-until ...
}

// A mirror is a URI that serves one pocket of a vendor's suites.
type mirror struct {
	uri     string
	pocket  string // "", "-updates", "-security"
	options map[string]string
}

// trustOptions are the options that say how an archive is verified. The mirror needs them for every suite
// that is fetched from it.
var trustOptions = []string{"trusted", "check-valid-until", "check-date", "allow-weak"}

// mirrors returns where this machine gets the vendor's packages from, or nil if it uses no mirror
// of the vendor: then mmdebstrap uses its default. apt is /etc/apt. Other publishers use the same
// suite names, so an entry counts only if it names the vendor's keyring, or if it names no key and
// its path is the vendor's.
func (v vendor) mirrors(apt fs.FS) []mirror {
	var out []mirror
	for _, e := range readSources(apt) {
		if !slices.Contains(e.components, "main") {
			continue
		}
		key := e.options["signed-by"]
		for _, u := range e.uris {
			if !webURI(u) || !(strings.Contains(key, v.keyMark) || key == "" && v.owns(u)) {
				continue
			}
			for _, s := range e.suites {
				pocket, ok := v.pocketOf(s)
				if !ok || slices.ContainsFunc(out, func(m mirror) bool { return m.pocket == pocket }) {
					continue
				}
				m := mirror{uri: u, pocket: pocket, options: map[string]string{}}
				for _, k := range trustOptions {
					if v, ok := e.options[k]; ok {
						m.options[k] = v
					}
				}
				out = append(out, m)
			}
		}
	}
	if !slices.ContainsFunc(out, func(m mirror) bool { return m.pocket == "" }) {
		return nil
	}
	slices.SortStableFunc(out, func(a, b mirror) int { return len(a.pocket) - len(b.pocket) })
	return out
}

func webURI(u string) bool {
	return strings.HasPrefix(u, "http://") || strings.HasPrefix(u, "https://")
}

func (v vendor) owns(u string) bool {
	p, err := url.Parse(u)
	return err == nil && strings.HasPrefix(path.Base(p.Path), v.path)
}

// pocketOf returns the pocket of a suite: "-security" of "trixie-security"; "bullseye/updates" is
// the older spelling of that. It returns false for a suite of another vendor.
func (v vendor) pocketOf(suite string) (string, bool) {
	suite = strings.Replace(strings.TrimSuffix(suite, "/"), "/updates", "-security", 1)
	base, pocket, _ := strings.Cut(suite, "-")
	if !slices.Contains(v.suites, base) {
		return "", false
	}
	if pocket == "" {
		return "", true
	}
	return "-" + pocket, slices.Contains(v.pockets, pocket)
}

// oneLine renders mirrors for the build, in the one-line style of sources.list(5).
func (r recipe) oneLine(ms []mirror, keyring string) string {
	var b strings.Builder
	for _, m := range ms {
		opts := []string{}
		if keyring != "" {
			opts = append(opts, "signed-by="+keyring)
		}
		for _, k := range trustOptions {
			if v, ok := m.options[k]; ok {
				opts = append(opts, k+"="+v)
			}
		}
		b.WriteString("deb ")
		if len(opts) > 0 {
			b.WriteString("[" + strings.Join(opts, " ") + "] ")
		}
		b.WriteString(m.uri + " " + r.codename + m.pocket + " " + r.vendor.components + "\n")
	}
	return b.String()
}

// deb822 renders mirrors for the guest, without the passwords in their URIs.
func (r recipe) deb822(ms []mirror) string {
	var stanzas []string
	for _, m := range ms {
		uri := withoutUser(m.uri)
		s := "Types: deb\nURIs: " + uri + "\nSuites: " + r.codename + m.pocket + "\nComponents: " + r.vendor.components + "\nSigned-By: " + r.vendor.keyring + "\n"
		for _, k := range trustOptions {
			if v, ok := m.options[k]; ok {
				s += title(k) + ": " + v + "\n"
			}
		}
		stanzas = append(stanzas, s)
	}
	return strings.Join(stanzas, "\n")
}

// withoutUser removes user and password from a URI, also from an invalid one: apt accepts URIs that
// url.Parse does not.
func withoutUser(uri string) string {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	return scheme + "://" + rest[strings.LastIndexByte(rest[:end], '@')+1:]
}

// title turns check-valid-until into Check-Valid-Until.
func title(k string) string {
	w := strings.Split(k, "-")
	for i := range w {
		w[i] = strings.ToUpper(w[i][:1]) + w[i][1:]
	}
	return strings.Join(w, "-")
}

// readSources reads sources.list and sources.list.d in apt's order. It skips what cannot be read or
// parsed.
func readSources(apt fs.FS) []aptEntry {
	var out []aptEntry
	if b, err := fs.ReadFile(apt, "sources.list"); err == nil {
		out = append(out, parseOneLine(string(b))...)
	}
	files, _ := fs.ReadDir(apt, "sources.list.d")
	for _, f := range files {
		b, err := fs.ReadFile(apt, path.Join("sources.list.d", f.Name()))
		if err != nil {
			continue
		}
		switch path.Ext(f.Name()) {
		case ".list":
			out = append(out, parseOneLine(string(b))...)
		case ".sources":
			out = append(out, parseDeb822(string(b))...)
		}
	}
	return out
}

// parseOneLine reads "deb [k=v ...] URI suite component...".
func parseOneLine(text string) []aptEntry {
	var out []aptEntry
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		rest = strings.TrimSpace(rest)
		e := aptEntry{options: map[string]string{}}
		if strings.HasPrefix(rest, "[") {
			opts, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				continue
			}
			for _, o := range strings.Fields(opts) {
				k, v, _ := strings.Cut(o, "=")
				e.options[strings.ToLower(k)] = v
			}
			rest = after
		}
		w := strings.Fields(rest)
		if len(w) < 3 {
			continue
		}
		e.uris, e.suites, e.components = w[:1], w[1:2], w[2:]
		out = append(out, e)
	}
	return out
}

// parseDeb822 reads stanzas of "Field: value" with continuation lines.
func parseDeb822(text string) []aptEntry {
	var out []aptEntry
	fields := map[string]string{}
	last := ""
	flush := func() {
		list := func(k string) []string { return strings.Fields(fields[k]) }
		if slices.Contains(list("types"), "deb") && !slices.Contains([]string{"no", "false", "0", "off"}, strings.ToLower(fields["enabled"])) {
			out = append(out, aptEntry{uris: list("uris"), suites: list("suites"), components: list("components"), options: fields})
		}
		fields, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				fields[last] += " " + strings.TrimSpace(line)
			}
		default:
			k, v, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			last = strings.ToLower(strings.TrimSpace(k))
			fields[last] = strings.TrimSpace(v)
		}
	}
	flush()
	return out
}
