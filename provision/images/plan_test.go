package images

import (
	"errors"
	"strings"
	"testing"

	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/target"
)

// Plan depends on the facts only: it asks no server and reads no file.
func TestPlanFromFacts(t *testing.T) {
	broken := errors.New("broken")
	built := image.Ref{Kind: image.KindPackages, Name: image.Debian12}
	list := image.Ref{Kind: image.KindCatalogue, Name: image.Default}
	for name, k := range map[string]struct {
		facts          loop.ImageFacts
		id, note, err  string
		builds, cached bool
	}{
		"in the cache":      {facts: loop.ImageFacts{Ref: built, Cached: true, Notes: []string{"n"}}, cached: true},
		"to be built":       {facts: loop.ImageFacts{Ref: built, Notes: []string{"n"}}, id: "image.build:debian-12", note: "n", builds: true},
		"to be built again": {facts: loop.ImageFacts{Ref: built, Cached: true, Refetch: true}, id: "image.build:debian-12", builds: true, cached: true},
		"to be fetched":     {facts: loop.ImageFacts{Ref: list, Host: "h", From: "https://h/x"}, id: "image.fetch:" + image.Default},
		"a file":            {facts: loop.ImageFacts{Ref: image.Ref{Kind: image.KindFile, Path: "/x"}}, id: "image.import"},
		"a damaged file":    {facts: loop.ImageFacts{Ref: image.Ref{Kind: image.KindFile, Path: "/x"}, Unfit: broken, Notes: []string{"n"}}, err: "broken", note: "n"},
		"prepared, missing": {facts: loop.ImageFacts{Ref: image.Ref{Kind: image.KindLocal, Name: "mine"}}, err: "damaged or missing"},
		"unknown":           {facts: loop.ImageFacts{Ref: built, Err: broken}, err: "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			p, base, err := For(looptest.New(t).Loop).Plan(&target.Target{}, k.facts)
			if k.err != "" && (err == nil || !strings.Contains(err.Error(), k.err)) || k.err == "" && err != nil {
				t.Fatal(err)
			}
			id, note := "", ""
			if len(p.Actions) > 0 {
				id = p.Actions[0].ID
			}
			if len(p.Notes) > 0 {
				note = p.Notes[0].Text
			}
			if id != k.id || note != k.note || k.facts.Builds() != k.builds {
				t.Errorf("planned %q, note %q, builds %v", id, note, k.facts.Builds())
			}
			if k.err == "" {
				if _, err := base(); (err == nil) != k.cached {
					t.Errorf("the base: %v", err)
				}
			}
		})
	}
}

// A new VM is recorded with the image that "auto" means; an existing record keeps its name.
func TestName(t *testing.T) {
	f := loop.ImageFacts{Auto: true, Ref: image.Ref{Kind: image.KindPackages, Name: image.Debian12}}
	w := &target.Target{NewVM: true}
	if got := Name(w, f); got != "packages:debian-12" {
		t.Errorf("%q", got)
	}
	w.NewVM, w.Record.Image.Name = false, "auto"
	if got := Name(w, f); got != "auto" {
		t.Errorf("%q", got)
	}
}
