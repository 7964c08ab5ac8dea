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
	if err := os.WriteFile("here.img", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]Ref{
		"auto":               {Kind: KindAuto},
		"packages:debian-12": {Kind: KindPackages, Name: "debian-12"},
		"/srv/x.qcow2":       {Kind: KindFile, Path: "/srv/x.qcow2"},
		"/srv/a b/../ü.img":  {Kind: KindFile, Path: "/srv/ü.img"},
		"./x.img":            {Kind: KindFile, Path: filepath.Join(dir, "x.img")},
		"../x.img":           {Kind: KindFile, Path: filepath.Join(filepath.Dir(dir), "x.img")},
		"~/x.img":            {Kind: KindFile, Path: "/home/u/x.img"},
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for in, hint := range map[string]string{
		"": "auto", "ubuntu-24.04": "auto", "packages:debian-13": "packages:debian-12", "here.img": "--image ./here.img",
		"/x\ny": "", "-x": "auto",
	} {
		_, err := Parse(in)
		var e *ui.Error
		if !errors.As(err, &e) || e.Exit != ui.ExitUsage || !strings.Contains(strings.Join(e.Hints, " "), hint) {
			t.Errorf("%q: %#v", in, err)
		}
	}
	for _, in := range []string{"packages:debian-12", "/srv/x.qcow2", "auto"} {
		if r, _ := Parse(in); r.String() != in {
			t.Errorf("%q is written %q", in, r.String())
		}
	}
}

func TestResolveSaysWhatAutoBecame(t *testing.T) {
	r, note := Resolve(Ref{Kind: KindAuto})
	if r.String() != "packages:debian-12" || note == "" || strings.Contains(note, "\n") {
		t.Errorf("%v %q", r, note)
	}
	if r, note := Resolve(Ref{Kind: KindFile, Path: "/x"}); r.Path != "/x" || note != "" {
		t.Errorf("%v %q", r, note)
	}
}
