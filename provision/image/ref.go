package image

import (
	"os"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// Kinds of Ref.
const (
	KindAuto     = "auto"
	KindPackages = "packages"
	KindFile     = "file"
)

// Debian12 is the distribution Build knows.
const Debian12 = "debian-12"

// Ref names an image as a person does.
type Ref struct {
	Kind   string // KindAuto, KindPackages, KindFile
	Name   string // of packages: the distribution
	Path   string // of file: absolute
	SHA256 string // wanted digest, lower-case hex, or ""
}

// String is how the Ref is written; it is also the source an image is
// remembered by.
func (r Ref) String() string {
	switch r.Kind {
	case KindPackages:
		return KindPackages + ":" + r.Name
	case KindFile:
		return r.Path
	}
	return r.Kind
}

// Parse reads the value of --image and of the key image.name: "auto",
// "packages:debian-12", or a path that begins with /, ./, ../ or ~/.
func Parse(s string) (Ref, error) {
	switch {
	case s == KindAuto:
		return Ref{Kind: KindAuto}, nil
	case strings.ContainsAny(s, "\n\r\x00"):
		return Ref{}, ui.Usage("image %q has a line break in it", s)
	case strings.HasPrefix(s, "~/"):
		home, err := os.UserHomeDir()
		if err != nil {
			return Ref{}, ui.Usage("image %q: %w", s, err)
		}
		return Ref{Kind: KindFile, Path: filepath.Join(home, s[2:])}, nil
	case filepath.IsAbs(s), strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"):
		abs, err := filepath.Abs(s)
		if err != nil {
			return Ref{}, ui.Usage("image %q: %w", s, err)
		}
		return Ref{Kind: KindFile, Path: abs}, nil
	case s == KindPackages+":"+Debian12:
		return Ref{Kind: KindPackages, Name: Debian12}, nil
	}
	e := ui.Usage("unknown image %q", s)
	if rest, ok := strings.CutPrefix(s, KindPackages+":"); ok {
		e = ui.Usage("no image of %q can be built from packages", rest)
	}
	e.Hint("there are: auto, " + KindPackages + ":" + Debian12 + ", or the path of a qcow2 or raw file")
	if _, err := os.Stat(s); err == nil {
		e.Hint("for the file here: --image ./" + ui.Clean(s))
	}
	return Ref{}, e
}

// Resolve turns "auto" into what it stands for on this machine, with a
// sentence for the person when that is not the first choice.
func Resolve(r Ref) (Ref, string) {
	if r.Kind != KindAuto {
		return r, ""
	}
	return Ref{Kind: KindPackages, Name: Debian12}, "Ubuntu's cloud images cannot be had yet: the VM gets Debian 12, built from this machine's package mirror"
}
