package images

import (
	"context"
	"errors"
	"fmt"

	"aivm.dev/aivm/provision/loop"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/target"
)

// Observe finds out which image w means and how to get it. It asks a server only if the choice
// depends on it.
func (e Part) Observe(ctx context.Context, w *target.Target) (f loop.ImageFacts) {
	wanted, old, err := w.ImageRef()
	if err != nil {
		f.Err = err
		return f
	}
	f.Auto = wanted.Kind == image.KindAuto
	ref, note, err := e.resolveImage(ctx, w, wanted)
	if err == nil {
		f.Ref = ref
		f.Entry, f.Cached, err = e.Cache.Lookup(ref)
	}
	if f.Err = err; err != nil {
		return f
	}
	for _, n := range []string{old, note} {
		if n != "" {
			f.Notes = append(f.Notes, n)
		}
	}
	download := ref.Kind == image.KindCatalogue || ref.Kind == image.KindURL
	f.Refetch = (w.RefetchImage || download && w.Record.Image.Redownload) && !e.Fetched[ref.Full()]
	switch {
	case f.Cached && !f.Refetch:
	case download:
		from := e.fetcher(w)
		if f.Unfit = from.Check(ref); f.Unfit == nil {
			f.From, f.Host = from.DownloadURL(ref), from.Host(ref)
		}
	case ref.Kind == image.KindFile:
		f.Unfit = image.CheckFile(ref)
	}
	return f
}

// Plan plans to get the guest image into the cache. base returns the image to later actions, or an
// error while the cache does not have it.
func (e Part) Plan(w *target.Target, f loop.ImageFacts) (p plan.Plan, base func() (domain.Base, error), err error) {
	p.Stage = plan.Host
	if f.Err != nil {
		return p, nil, f.Err
	}
	ref, entry, ok := f.Ref, f.Entry, f.Cached
	base = func() (domain.Base, error) {
		if !ok {
			return domain.Base{}, errors.New("the guest image is not in the cache yet")
		}
		return domain.Base{SHA256: entry.SHA256, Format: entry.Format, Size: entry.Size, Disk: entry.VirtualSize, Open: domain.OpenFile(entry.Path)}, nil
	}
	if ok && !f.Refetch {
		return p, base, nil
	}
	for _, n := range f.Notes {
		p.Say(n)
	}
	if f.Unfit != nil {
		return p, nil, f.Unfit
	}
	previous := entry.SHA256
	setEntry := func(got image.Entry, err error) error {
		if err == nil {
			entry, ok = got, true
			if e.Fetched == nil {
				e.Fetched = map[string]bool{}
			}
			e.Fetched[ref.Full()] = true
		}
		return err
	}
	report := func(ctx context.Context) image.Progress {
		return func(line string, fraction float64) { plan.Report(ctx, line, fraction) }
	}
	// claim waits for another run that gets an image. found: that run got this image.
	claim := func(ctx context.Context) (found bool, release func(), err error) {
		got, found, release, err := e.Cache.Claim(ctx, ref, report(ctx))
		if err == nil && found && f.Refetch && got.SHA256 == previous {
			found = false // still the old image
		}
		if err == nil && found {
			err = setEntry(got, nil)
		}
		return found, release, err
	}
	// exclusive calls get while no other run gets an image.
	exclusive := func(get func(context.Context) (image.Entry, error)) func(context.Context) error {
		return func(ctx context.Context) error {
			found, release, err := claim(ctx)
			if err != nil {
				return err
			}
			defer release()
			if found {
				return nil
			}
			return setEntry(get(ctx))
		}
	}
	a := plan.Action{Consent: plan.Ask, Timing: "image"}
	switch ref.Kind {
	case image.KindCatalogue, image.KindURL:
		a.ID, a.Why = "image.fetch:"+ref.String(), downloadText(ref, f.Host, ok)
		a.Shows = []string{"GET " + f.From, "write " + e.Cache.Dir + "/"}
		a.Do = exclusive(func(ctx context.Context) (image.Entry, error) {
			got, _, err := e.fetcher(w).Fetch(ctx, ref, report(ctx))
			return got, err
		})
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
			return setEntry(e.Cache.Add(ctx, res.File, ref, image.BuiltFromPackages, report(ctx)))
		}
	case image.KindFile:
		a.ID, a.Why = "image.import", "copy the image "+ref.Path+" into the cache"
		a.Shows = []string{"write " + e.Cache.Dir + "/"}
		a.Do = exclusive(func(ctx context.Context) (image.Entry, error) { return e.Cache.AddFile(ctx, ref, report(ctx)) })
	default: // created by vm prepare: there is no source to get it from
		if !ok {
			return p, nil, ui.Failed("the file of image %s is damaged or missing", ref).
				Hint(ui.Cmd("aivm image verify "+ref.String()), ui.CmdFor("to create it again", "aivm vm prepare NAME --as "+ref.String()))
		}
		return p, base, nil
	}
	p.Add(a)
	return p, base, nil
}

// downloadText describes a download, with its size and how it is verified. cached: the cache has an
// older build.
func downloadText(ref image.Ref, host string, cached bool) string {
	if ref.Kind == image.KindURL {
		return "download the guest image from " + host + " and compare its digest"
	}
	r, _ := image.Find(ref.Name)
	how := "over https (its list of digests is not signed)"
	switch {
	case ref.Pinned():
		how = "and compare it with the given digest"
	case r.Signed:
		how = "and verify Ubuntu's signature"
	}
	if cached {
		return fmt.Sprintf("look for a newer %s on %s, download it (about %d MB) %s", r.Name, host, r.MB, how)
	}
	return fmt.Sprintf("download the newest %s from %s (about %d MB) %s", r.Name, host, r.MB, how)
}

// Fetched is what "image fetch" prints with --json.
type Fetched struct {
	Schema   int    `json:"schema"`
	Image    string `json:"image"`
	SHA256   string `json:"sha256"`
	Format   string `json:"format"`
	Size     int64  `json:"size"`
	Release  string `json:"release,omitempty"`
	Verified string `json:"verified,omitempty"`
	Changed  bool   `json:"changed"`

	Newest bool `json:"-"` // the server has no newer build
}

// Fetch gets an image into the cache and does nothing else. For an image of the catalogue it
// fetches a newer build, if there is one. again: fetch the image even if the cache has it.
func (e Part) Fetch(ctx context.Context, name string, again bool) (Fetched, error) {
	e.Timing = ui.NewTiming("image")
	store, err := e.Load()
	if err != nil {
		return Fetched{}, err
	}
	w := &target.Target{Store: store, Name: store.Config.Defaults.VM.Name, Record: config.VM{Image: store.Config.Defaults.Image}}
	if w, err = w.WithImage(name); err != nil {
		return Fetched{}, err
	}
	wanted, _, err := w.ImageRef()
	if err != nil {
		return Fetched{}, err
	}
	ref, _, err := e.resolveImage(ctx, w, wanted)
	if err != nil {
		return Fetched{}, err
	}
	before, _, err := e.Cache.Lookup(ref)
	if err != nil {
		return Fetched{}, err
	}
	if again || ref.Kind == image.KindCatalogue && !ref.Pinned() {
		w = w.FetchedAgain()
	}
	var base func() (domain.Base, error)
	tried, err := e.RunJob(ctx, loop.Job{Plan: func(ctx context.Context) (p plan.Plan, err error) {
		f := e.Observe(ctx, w)
		if p, base, err = e.Plan(w, f); err != nil || !f.Builds() {
			return p, err
		}
		need, err := host.Plan(e.HostFacts(), host.Need{Image: true})
		p.Actions = append(need, p.Actions...)
		return p, err
	}})
	if err != nil {
		return Fetched{}, err
	}
	if _, err := base(); err != nil {
		return Fetched{}, err
	}
	got, _, err := e.Cache.Lookup(ref)
	if err != nil {
		return Fetched{}, err
	}
	changed := got.SHA256 != before.SHA256
	return Fetched{
		Schema: 1, Image: ref.String(), SHA256: got.SHA256, Format: got.Format, Size: got.Size, Release: got.Release, Verified: got.Verified,
		Changed: changed, Newest: !changed && tried && ref.Kind == image.KindCatalogue,
	}, nil
}

// Check checks whether the image of w's VM is in the cache.
func (e Part) Check(w *target.Target) host.Check {
	ref, _, err := w.ImageRef()
	if err != nil {
		return host.NewCheck("image", "Base image cache", "bad", "%v", err)
	}
	ent, ok, err := e.cachedImage(ref)
	switch {
	case err != nil:
		return host.NewCheck("image", "Base image cache", "unknown", "%v", err)
	case !ok:
		return host.NewCheck("image", "Base image cache", "skipped", "%s is not in the cache; the VM no longer needs it", ref)
	}
	return host.NewCheck("image", "Base image cache", "ok", "%s (%d MB)", ent.Source, ent.Size>>20)
}

// Name returns the image to record in the config: for a new VM what "auto" means now, since it may
// mean another image later.
func Name(w *target.Target, f loop.ImageFacts) string {
	if w.NewVM && f.Auto {
		return f.Ref.String()
	}
	return w.Record.Image.Name
}
