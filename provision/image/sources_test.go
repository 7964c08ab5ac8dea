package image

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	p := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(p, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

var bookworm = recipes[Debian12]

const debian822 = `Types: deb deb-src
# a comment inside
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Check-Valid-Until: no

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`

func TestMirrors(t *testing.T) {
	vendor := "deb [signed-by=/usr/share/keyrings/tailscale.gpg] https://pkgs.vendor.example/stable/debian bookworm main\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string // "" : none
	}{
		{
			"Debian 12 as installed today",
			map[string]string{"sources.list.d/debian.sources": debian822},
			"deb [check-valid-until=no] https://mirror.example/debian bookworm main\n" +
				"deb [check-valid-until=no] https://mirror.example/debian bookworm-updates main\n" +
				"deb https://mirror.example/debian-security bookworm-security main\n",
		},
		{
			"one-line, a newer Debian",
			map[string]string{"sources.list": "# deb http://old.example/debian trixie main\n" +
				"deb cdrom:[Debian]/ trixie main\n" +
				"deb-src http://m.example/debian trixie main\n" +
				"deb\thttp://m.example/debian/ trixie main non-free-firmware # here\r\n" +
				"deb [arch=amd64] http://m.example/debian-security/ trixie-security main\n"},
			"deb http://m.example/debian/ bookworm main\ndeb http://m.example/debian-security/ bookworm-security main\n",
		},
		{
			"old security suite",
			map[string]string{"sources.list": "deb http://m.example/debian bullseye main\ndeb http://m.example/debian-security bullseye/updates main\n"},
			"deb http://m.example/debian bookworm main\ndeb http://m.example/debian-security bookworm-security main\n",
		},
		{
			"trusted by its owner",
			map[string]string{"sources.list": "deb [trusted=yes] http://m.example/debian bookworm main\n"},
			"deb [trusted=yes] http://m.example/debian bookworm main\n",
		},
		{"vendors are not Debian", map[string]string{
			"sources.list.d/a-vendor.list":     vendor,
			"sources.list.d/other.sources":     "Types: deb\nURIs: https://packages.vendor.example/debian/12/prod\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n",
			"sources.list.d/pg.list":           "deb https://apt.vendor.example/pub/repos/debian bookworm-pgdg main\n",
			"sources.list.d/switched.sources":  "Enabled: no\n" + strings.Split(debian822, "\n\n")[0],
			"sources.list.d/z.sources.save":    debian822,
			"sources.list.d/zz-broken.list":    "deb [never closed http://m.example/debian bookworm main\ndeb http://m.example/debian\ndebian\n",
			"sources.list.d/zz-broken.sources": "URIs without anything\n continued\n",
		}, ""},
		{"security alone is no mirror", map[string]string{"sources.list": "deb http://m.example/debian-security bookworm-security main\n"}, ""},
		{"Ubuntu", map[string]string{"sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://archive.ubuntu.example/ubuntu\nSuites: noble noble-updates\nComponents: main universe\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n"}, ""},
		{"nothing", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fsys := fstest.MapFS{}
			for p, s := range tt.files {
				fsys[p] = &fstest.MapFile{Data: []byte(s)}
			}
			got := bookworm.oneLine(debianVendor.mirrors(fsys), "")
			if got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestSourcesFiles(t *testing.T) {
	fsys := fstest.MapFS{"sources.list": &fstest.MapFile{Data: []byte(
		"deb [check-date=no] https://user:secret@m.example:8443/debian trixie main\n" +
			"deb https://user:secret@m.example:8443/debian-security trixie-security main\n",
	)}}
	ms := debianVendor.mirrors(fsys)
	if b := bookworm.oneLine(ms, debianVendor.keyring); !strings.Contains(b, "user:secret@") {
		t.Errorf("the build has no password for the mirror: %s", b)
	}
	g := bookworm.deb822(ms)
	if strings.Contains(g, "secret") {
		t.Error("a password gets into the guest")
	}
	golden(t, "guest.sources", g)
}

// A host without a Debian mirror leaves the choice to mmdebstrap.
func TestSourceOfPackages(t *testing.T) {
	ms := []mirror{{uri: "http://mirror.example.org/debian"}}
	list, vars := bookworm.packageSource(ms, debianVendor.keyring, "/w")
	if vars["SOURCES"] != "/w/sources.list" || vars["KEYRING"] != "" || list != "deb [signed-by="+debianVendor.keyring+"] http://mirror.example.org/debian bookworm main\n" {
		t.Errorf("with a mirror: %q %v", list, vars)
	}
	list, vars = bookworm.packageSource(nil, debianVendor.keyring, "/w")
	if list != "" || vars["SOURCES"] != "" || vars["KEYRING"] != debianVendor.keyring {
		t.Errorf("without one: %q %v", list, vars)
	}
	if g := bookworm.deb822(nil); g != "" {
		t.Errorf("the guest's sources: %q", g)
	}
	for _, f := range bookworm.late("id", "", "") {
		if strings.Contains(f.path, "sources.list") {
			t.Errorf("%s would replace what mmdebstrap wrote", f.path)
		}
	}
}
