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

// How an image is got, by what was found: nothing is asked or read for it.
func TestPlanFromFacts(t *testing.T) {
	broken := errors.New("broken")
	built := image.Ref{Kind: image.KindPackages, Name: image.Debian12}
	list := image.Ref{Kind: image.KindCatalogue, Name: image.Default}
	for name, k := range map[string]struct {
		facts         loop.ImageFacts
		id, says, err string
		builds, there bool
	}{
		"here":               {facts: loop.ImageFacts{Ref: built, Cached: true, Notes: []string{"n"}}, there: true},
		"to be built":        {facts: loop.ImageFacts{Ref: built, Notes: []string{"n"}}, id: "image.build:debian-12", says: "n", builds: true},
		"to be built again":  {facts: loop.ImageFacts{Ref: built, Cached: true, Refetch: true}, id: "image.build:debian-12", builds: true, there: true},
		"to be fetched":      {facts: loop.ImageFacts{Ref: list, Host: "h", From: "https://h/x"}, id: "image.fetch:" + image.Default},
		"a file":             {facts: loop.ImageFacts{Ref: image.Ref{Kind: image.KindFile, Path: "/x"}}, id: "image.import"},
		"a file that is bad": {facts: loop.ImageFacts{Ref: image.Ref{Kind: image.KindFile, Path: "/x"}, Unfit: broken, Notes: []string{"n"}}, err: "broken", says: "n"},
		"made here and gone": {facts: loop.ImageFacts{Ref: image.Ref{Kind: image.KindLocal, Name: "mine"}}, err: "damaged or gone"},
		"unknown":            {facts: loop.ImageFacts{Ref: built, Err: broken}, err: "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			p, base, err := For(looptest.New(t).Loop).Plan(&target.Target{}, k.facts)
			if k.err != "" && (err == nil || !strings.Contains(err.Error(), k.err)) || k.err == "" && err != nil {
				t.Fatal(err)
			}
			id, says := "", ""
			if len(p.Actions) > 0 {
				id = p.Actions[0].ID
			}
			if len(p.Notes) > 0 {
				says = p.Notes[0].Text
			}
			if id != k.id || says != k.says || k.facts.Builds() != k.builds {
				t.Errorf("planned %q, said %q, builds %v", id, says, k.facts.Builds())
			}
			if k.err == "" {
				if _, err := base(); (err == nil) != k.there {
					t.Errorf("the base: %v", err)
				}
			}
		})
	}
}

// A new VM is recorded with what "auto" stood for, another with what it said.
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
