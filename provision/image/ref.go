package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"aivm.dev/aivm/internal/download"
	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/ui"
)

// The kinds of a Ref.
const (
	KindAuto      = "auto"
	KindCatalogue = "catalogue" // a release of the catalogue, by its name
	KindURL       = "url"
	KindPackages  = "packages" // built on this machine from a package mirror
	KindFile      = "file"
	KindLocal     = "local" // made by "vm prepare", by the name given there
)

// The distributions Build knows.
const (
	Debian12   = "debian-12"
	Debian13   = "debian-13"
	Ubuntu2404 = "ubuntu-24.04"
)

// Ref names an image as the user writes it. At most one digest is set; the file must have it,
// whatever a server reports.
type Ref struct {
	Kind   string
	Name   string // of packages: the distribution; of catalogue and local: the name
	Path   string // of file: absolute
	URL    string // of url: https, without a fragment
	SHA256 string // lower-case hex, or ""
	SHA512 string
}

// String returns the name as Parse reads it, without a digest.
func (r Ref) String() string {
	switch r.Kind {
	case KindPackages:
		return KindPackages + ":" + r.Name
	case KindFile:
		return r.Path
	case KindURL:
		return r.URL
	case KindCatalogue, KindLocal:
		return r.Name
	}
	return r.Kind
}

// Pinned reports whether ref has a digest.
func (r Ref) Pinned() bool { return r.SHA256 != "" || r.SHA512 != "" }

// Full returns the name with its digest, as Parse reads it.
func (r Ref) Full() string {
	switch {
	case r.SHA256 != "":
		return r.String() + "#sha256=" + r.SHA256
	case r.SHA512 != "":
		return r.String() + "#sha512=" + r.SHA512
	}
	return r.String()
}

// source returns the key of the image in the index.
func (r Ref) source() string {
	if r.Kind == KindLocal {
		return localSource + r.Name
	}
	return r.String()
}

const localSource = "local:"

var (
	localName = lazyre.New(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
	hexSum    = lazyre.New(`^[0-9a-fA-F]+$`)
)

// Parse reads the value of --image and of the key image.name: "auto", a name of the catalogue, an
// https URL, "packages:" and a distribution, a path that begins with /, ./, ../ or ~/, or the name
// of an image made by "vm prepare". A suffix "#sha256=..." or "#sha512=..." is the digest the file
// must have.
func Parse(s string) (Ref, error) {
	if strings.ContainsAny(s, "\n\r\x00") {
		return Ref{}, ui.Usage("image %q contains a line break", s)
	}
	if !utf8.ValidString(s) {
		return Ref{}, ui.Usage("image %q is not valid UTF-8, so the config cannot name it", s)
	}
	plain, r, err := cutDigest(s)
	if err != nil {
		return Ref{}, err
	}
	switch {
	case plain == KindAuto:
		r.Kind = KindAuto
		return r, nil
	case strings.HasPrefix(plain, "~/"):
		home, err := os.UserHomeDir()
		if err != nil {
			return Ref{}, ui.Usage("image %q: %w", s, err)
		}
		r.Kind, r.Path = KindFile, filepath.Join(home, plain[2:])
		return r, nil
	case strings.HasPrefix(plain, "file:///"):
		r.Kind, r.Path = KindFile, filepath.Clean(strings.TrimPrefix(plain, "file://"))
		return r, nil
	case filepath.IsAbs(plain), strings.HasPrefix(plain, "./"), strings.HasPrefix(plain, "../"):
		abs, err := filepath.Abs(plain)
		if err != nil {
			return Ref{}, ui.Usage("image %q: %w", s, err)
		}
		r.Kind, r.Path = KindFile, abs
		return r, nil
	case strings.HasPrefix(plain, "https://"):
		if err := download.CheckURL(plain); err != nil {
			return Ref{}, ui.Usage("image %q: %w", s, err)
		}
		r.Kind, r.URL = KindURL, plain
		return r, nil
	case strings.HasPrefix(plain, "http://"):
		return Ref{}, ui.Usage("image %q: images are fetched over https only", s).Hint(ui.Remark("use https://, or download it yourself and use --image ./FILE"))
	}
	if distro, ok := strings.CutPrefix(plain, KindPackages+":"); ok {
		if _, ok := recipes[distro]; ok {
			r.Kind, r.Name = KindPackages, distro
			return r, nil
		}
		return Ref{}, unknown(ui.Usage("no image of %q can be built from packages", distro), plain)
	}
	if _, ok := Find(plain); ok {
		r.Kind, r.Name = KindCatalogue, plain
		return r, nil
	}
	if localName.MatchString(plain) {
		r.Kind, r.Name = KindLocal, plain
		return r, nil
	}
	return Ref{}, unknown(ui.Usage("unknown image %q", s), plain)
}

// cutDigest splits the digest off the end of s.
func cutDigest(s string) (string, Ref, error) {
	for _, a := range []struct {
		mark   string
		digits int
	}{{"#sha256=", 64}, {"#sha512=", 128}} {
		at := strings.LastIndex(s, a.mark)
		if at < 0 {
			continue
		}
		sum := s[at+len(a.mark):]
		if len(sum) != a.digits || !hexSum.MatchString(sum) {
			return "", Ref{}, ui.Usage("image %q: a %s digest has %d hexadecimal digits", s, a.mark[1:7], a.digits)
		}
		sum = strings.ToLower(sum)
		if a.digits == 64 {
			return s[:at], Ref{SHA256: sum}, nil
		}
		return s[:at], Ref{SHA512: sum}, nil
	}
	return s, Ref{}, nil
}

// CheckLocalName refuses a name that "vm prepare" cannot give an image.
func CheckLocalName(name string) error {
	r, err := Parse(name)
	if err == nil && r.Kind == KindLocal && !r.Pinned() {
		return nil
	}
	if err == nil && r.Kind == KindCatalogue {
		return ui.Usage("the catalogue already has an image %q", name).Hint(ui.Remark("choose another name: --as my-" + name))
	}
	return ui.Usage("invalid image name %q: use at most 63 of a-z, 0-9, '.', '_' and '-'", name).Hint(ui.Remark("for example: --as tools"))
}

// Known returns the names Parse knows, for completion and hints.
func Known() []string {
	out := []string{KindAuto}
	for _, r := range Releases() {
		out = append(out, r.Name)
	}
	for _, d := range distros() {
		out = append(out, KindPackages+":"+d)
	}
	return out
}

func distros() []string {
	var out []string
	for d := range recipes {
		out = append(out, d)
	}
	slices.Sort(out)
	return out
}

// unknown adds the valid names to an error about an unknown one.
func unknown(e *ui.Error, name string) *ui.Error {
	e.Hint(ui.Remark("known images: " + strings.Join(Known(), ", ") + "; or an https URL, or the path of a qcow2 or raw file"))
	if _, err := os.Stat(name); err == nil && name != "" {
		e.Hint(ui.Remark("for the file in this directory: --image ./" + ui.Clean(name)))
	}
	return e
}
