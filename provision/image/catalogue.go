package image

import (
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
)

// A Release is an image of the catalogue: where to find its newest build on the publisher's server
// and its mirrors. It holds the names of the release and of its directory, never a date or a
// digest, so an entry does not expire.
type Release struct {
	Name   string
	Title  string   // as the user reads it
	Origin string   // the publisher's server, an https URL
	Dir    string   // directory of the newest build, below Origin
	File   string   // with %s for the architecture
	Sums   string   // file name of the list of digests in Dir
	Signed bool     // Sums+".gpg" is Ubuntu's signature of the list
	MB     int      // approximate size of the file
	Arches []string // as Debian names them
}

const (
	// Default is the image "auto" selects when its server answers.
	Default = Ubuntu2404

	ubuntuOrigin = "https://cloud-images.ubuntu.com"
	debianOrigin = "https://cloud.debian.org"
)

// releases is the catalogue. Ubuntu's "release" directory and Debian's "latest" always hold the
// newest build. Debian's genericcloud image is used: its kernel is made for virtual machines and
// has virtiofs.
var releases = []Release{
	ubuntuServer("24.04", "noble", "LTS", 600, "amd64", "arm64"),
	{
		Name: "ubuntu-24.04-minimal", Title: "Ubuntu 24.04 LTS, minimal", Origin: ubuntuOrigin, Dir: "/minimal/releases/noble/release",
		File: "ubuntu-24.04-minimal-cloudimg-%s.img", Sums: "SHA256SUMS", Signed: true, MB: 250, Arches: []string{"amd64", "arm64"},
	},
	ubuntuServer("22.04", "jammy", "LTS", 660, "amd64", "arm64"),
	ubuntuServer("26.04", "resolute", "LTS", 700, "amd64", "arm64"),
	debianCloud("12", "bookworm", 330),
	debianCloud("13", "trixie", 330),
}

func ubuntuServer(version, codename, kind string, mb int, arches ...string) Release {
	return Release{
		Name: "ubuntu-" + version, Title: "Ubuntu " + version + " " + kind, Origin: ubuntuOrigin, Dir: "/releases/" + codename + "/release",
		File: "ubuntu-" + version + "-server-cloudimg-%s.img", Sums: "SHA256SUMS", Signed: true, MB: mb, Arches: arches,
	}
}

func debianCloud(version, codename string, mb int) Release {
	return Release{
		Name: "debian-" + version, Title: "Debian " + version, Origin: debianOrigin, Dir: "/images/cloud/" + codename + "/latest",
		File: "debian-" + version + "-genericcloud-%s.qcow2", Sums: "SHA512SUMS", MB: mb, Arches: []string{"amd64", "arm64"},
	}
}

// Releases returns the catalogue, the default release first.
func Releases() []Release { return slices.Clone(releases) }

// Find returns the release of that name.
func Find(name string) (Release, bool) {
	for _, r := range releases {
		if r.Name == name {
			return r, true
		}
	}
	return Release{}, false
}

// Arch returns this machine's architecture, as the catalogue names it.
func Arch() string { return runtime.GOARCH }

// For reports whether the release has a build for an architecture.
func (r Release) For(arch string) bool { return slices.Contains(r.Arches, arch) }

// FileName returns the file name of the build for an architecture.
func (r Release) FileName(arch string) string { return fmt.Sprintf(r.File, arch) }

// Host returns the host name of the publisher's server.
func (r Release) Host() string { return strings.TrimPrefix(r.Origin, "https://") }

// codenamed finds the Ubuntu release whose builds are in directories of that codename.
func codenamed(codename string, minimal bool) (Release, bool) {
	for _, r := range releases {
		if strings.Contains(r.Dir, "/"+codename+"/") && strings.HasPrefix(r.Dir, "/minimal/") == minimal && r.Origin == ubuntuOrigin {
			return r, true
		}
	}
	return Release{}, false
}

// FromOldURL converts the value of 0.3's image.ubuntu_img_url. It named a dated directory on
// Ubuntu's server, which Ubuntu removes after some months. So, unless its digest is known too, such
// a URL selects the release of that directory, and note says so.
func FromOldURL(s string, pinned bool) (r Ref, note string, err error) {
	r, err = Parse(s)
	if err != nil || r.Kind != KindURL || r.Pinned() || pinned {
		return r, "", err
	}
	u, err := url.Parse(r.URL)
	if err != nil || u.Hostname() != strings.TrimPrefix(ubuntuOrigin, "https://") {
		return r, "", nil
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	for _, p := range parts {
		if rel, ok := codenamed(p, slices.Contains(parts, "minimal")); ok {
			return Ref{Kind: KindCatalogue, Name: rel.Name}, fmt.Sprintf("image.ubuntu_img_url names one build of %s, which Ubuntu removes after some months: the newest build is used", rel.Title), nil
		}
	}
	return r, "", nil
}
