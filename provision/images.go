package provision

import (
	"context"
	"errors"
	"fmt"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
)

// planImage gets the guest image into the cache. base gives it to later
// actions; before it is there, base is an error.
func (e *Env) planImage(w *want) ([]plan.Action, func() (domain.Base, error), error) {
	asked, err := w.imageRef()
	if err != nil {
		return nil, nil, err
	}
	ref, note := image.Resolve(asked)
	entry, ok, err := e.Cache.Lookup(ref)
	if err != nil {
		return nil, nil, err
	}
	base := func() (domain.Base, error) {
		if !ok {
			return domain.Base{}, errors.New("the guest image is not there yet")
		}
		return domain.Base{SHA256: entry.SHA256, Format: entry.Format, Size: entry.Size, Open: domain.OpenFile(entry.Path)}, nil
	}
	if ok {
		return nil, base, nil
	}
	if note != "" {
		e.noteOnce(note)
	}
	report := func(ctx context.Context) image.Progress {
		return func(line string, fraction float64) { plan.Report(ctx, line, fraction) }
	}
	// claim waits for another run that gets an image; it may be the one wanted.
	claim := func(ctx context.Context) (found bool, release func(), err error) {
		got, found, release, err := e.Cache.Claim(ctx, ref, report(ctx))
		if err == nil && found {
			entry, ok = got, true
		}
		return found, release, err
	}
	a := plan.Action{Consent: plan.Ask, Timing: "image"}
	switch ref.Kind {
	case image.KindPackages:
		a.ID, a.Why = "image.build:"+ref.Name, fmt.Sprintf("build the guest image %s from this machine's package mirror (about two minutes)", ref)
		op := root.BuildImage{Distro: ref.Name}
		a.Root, a.Shows = op, op.Shows()
		a.Guard = func(ctx context.Context) (func(), error) {
			found, release, err := claim(ctx)
			if err == nil && found {
				release()
				return nil, fmt.Errorf("another aivm has built it: %w", plan.ErrStale)
			}
			return release, err
		}
		a.Got = func(ctx context.Context, res root.Result) error {
			if res.File == nil {
				return errors.New("the privileged helper passed no image")
			}
			defer res.File.Close()
			entry, err = e.Cache.Add(ctx, res.File, ref.String(), report(ctx))
			ok = err == nil
			return err
		}
	case image.KindFile:
		if err := image.CheckFile(ref); err != nil {
			return nil, nil, err
		}
		a.ID, a.Why = "image.import", "copy the image "+ref.Path+" into the cache"
		a.Shows = []string{"write " + e.Cache.Dir + "/"}
		a.Do = func(ctx context.Context) error {
			found, release, err := claim(ctx)
			if err != nil {
				return err
			}
			defer release()
			if found {
				return nil
			}
			entry, err = e.Cache.AddFile(ctx, ref, report(ctx))
			ok = err == nil
			return err
		}
	default:
		return nil, nil, ui.Refused("images of the kind %q are not there yet", ref.Kind).Hint("use --image packages:debian-12, or --image FILE.qcow2")
	}
	return []plan.Action{a}, base, nil
}

// FetchImage gets an image into the cache and does nothing else
// (`host image-fetch`).
func (e *Env) FetchImage(ctx context.Context, name string) error {
	e.timing = ui.NewTiming("image")
	store, err := e.load()
	if err != nil {
		return err
	}
	w := &want{store: store, image: name, name: store.Config.Defaults.VM.Name}
	w.record.Image = store.Config.Defaults.Image
	as, base, err := e.planImage(w)
	if err != nil {
		return err
	}
	p := plan.Plan{Stage: plan.Host}
	if len(as) > 0 && as[0].Root != nil {
		need, err := host.Plan(e.hostFacts(), host.Need{Image: true})
		if err != nil {
			return err
		}
		p.Add(need...)
	}
	p.Add(as...)
	if e.DryRun {
		return e.printPlain("image-fetch", "", p)
	}
	if err := e.Approval.Consent(ctx, e.UI, p, nil, e.Rerun); err != nil {
		return err
	}
	if _, err := e.run(ctx, p); err != nil {
		return e.resume(err)
	}
	b, err := base()
	if err != nil {
		return err
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(map[string]any{"schema": 1, "sha256": b.SHA256, "format": b.Format, "size": b.Size, "changed": !p.Empty()})
	}
	e.UI.Result("image %s (%s, %d MB) is in the cache", b.SHA256[:min(16, len(b.SHA256))], b.Format, b.Size>>20)
	return nil
}
