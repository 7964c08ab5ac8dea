package images

import (
	"context"

	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/target"
)

// fetcher gets images for w; one for a run, so that a server is asked once
// whether it answers.
func (e Part) fetcher(w *target.Target) *image.Fetcher {
	if e.Fetcher == nil {
		e.Fetcher = &image.Fetcher{Cache: e.Cache, Mirrors: w.Mirrors()}
	}
	return e.Fetcher
}

// fallback is what "auto" stands for when Ubuntu's server does not answer.
var fallback = image.Ref{Kind: image.KindPackages, Name: image.Debian12}

// resolveImage turns "auto" into what it stands for here and now, with a
// sentence for the person where that is not the first choice: what the cache
// has of the catalogue's default, the default itself if its server answers,
// else the build from packages.
func (e Part) resolveImage(ctx context.Context, w *target.Target, ref image.Ref) (image.Ref, string, error) {
	if ref.Kind != image.KindAuto {
		return ref, "", nil
	}
	def := ref
	def.Kind, def.Name = image.KindCatalogue, image.Default
	if _, ok, err := e.Cache.Lookup(def); ok || err != nil || def.Pinned() {
		return def, "", err
	}
	if e.ServerAnswers == nil {
		yes := e.fetcher(w).DefaultReachable(ctx)
		if err := ctx.Err(); err != nil {
			return ref, "", err
		}
		e.ServerAnswers = &yes
	}
	if *e.ServerAnswers {
		return def, "", nil
	}
	r, _ := image.Find(image.Default)
	return fallback, r.Host() + " does not answer: the VM gets Debian 12, built from this machine's package mirror", nil
}

// cachedImage looks for an image without asking any server.
func (e Part) cachedImage(ref image.Ref) (image.Entry, bool, error) {
	if ref.Kind != image.KindAuto {
		return e.Cache.Lookup(ref)
	}
	for _, r := range []image.Ref{{Kind: image.KindCatalogue, Name: image.Default}, fallback} {
		if ent, ok, err := e.Cache.Lookup(r); ok || err != nil {
			return ent, ok, err
		}
	}
	return image.Entry{}, false, nil
}

// RoomFor makes a disk large enough for the image, where its size was not asked
// for; an image that is not here yet is looked at when the disk is made.
func RoomFor(w *target.Target, base func() (domain.Base, error), gb int) (int, error) {
	b, err := base()
	if err != nil || b.Disk <= int64(gb)<<30 {
		return gb, nil
	}
	if w.Size.DiskGB == 0 {
		return int((b.Disk + 1<<30 - 1) >> 30), nil
	}
	return gb, domain.TooSmall(b.Disk, gb)
}
