package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/ui"
)

func TestParse(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", "/home/u")
	if err := os.WriteFile("Here.img", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]Ref{
		"auto":               {Kind: KindAuto},
		"packages:debian-12": {Kind: KindPackages, Name: "debian-12"},
		"packages:debian-13": {Kind: KindPackages, Name: "debian-13"},
		"ubuntu-24.04":       {Kind: KindCatalogue, Name: "ubuntu-24.04"},
		"debian-13":          {Kind: KindCatalogue, Name: "debian-13"},
		"tools":              {Kind: KindLocal, Name: "tools"},
		"file:///srv/x.img":  {Kind: KindFile, Path: "/srv/x.img"},
		"https://h.example/a.img?x=1#sha256=" + strings.Repeat("AB", 32): {Kind: KindURL, URL: "https://h.example/a.img?x=1", SHA256: strings.Repeat("ab", 32)},
		"ubuntu-22.04#sha512=" + strings.Repeat("0", 128):                {Kind: KindCatalogue, Name: "ubuntu-22.04", SHA512: strings.Repeat("0", 128)},
		"/srv/x.qcow2":      {Kind: KindFile, Path: "/srv/x.qcow2"},
		"/srv/a b/../ü.img": {Kind: KindFile, Path: "/srv/ü.img"},
		"./x.img":           {Kind: KindFile, Path: filepath.Join(dir, "x.img")},
		"../x.img":          {Kind: KindFile, Path: filepath.Join(filepath.Dir(dir), "x.img")},
		"~/x.img":           {Kind: KindFile, Path: "/home/u/x.img"},
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for in, hint := range map[string]string{
		"": "auto", "packages:debian-11": "packages:debian-12", "Here.img": "--image ./Here.img",
		"/x\ny": "", "-x": "auto", "http://h.example/a.img": "https://", "https:///a.img": "", "https://h.example/a#b": "",
		"auto#sha256=12": "", "x#sha512=" + strings.Repeat("z", 128): "", "../x\x00": "",
	} {
		_, err := Parse(in)
		var e *ui.Error
		if !errors.As(err, &e) || e.Exit != ui.ExitUsage || !strings.Contains(strings.Join(e.HintLines(), " "), hint) {
			t.Errorf("%q: %#v", in, err)
		}
	}
	for _, in := range []string{"packages:debian-12", "/srv/x.qcow2", "auto", "ubuntu-26.04", "https://h.example/a.img#sha256=" + strings.Repeat("0", 64)} {
		if r, _ := Parse(in); r.Full() != in {
			t.Errorf("Full of %q is %q", in, r.Full())
		}
	}
}
