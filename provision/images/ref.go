package images

import (
	"context"

	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/target"
)

// fetcher returns the run's Fetcher. There is one per run, so that each server is tried only once.
func (e Part) fetcher(w *target.Target) *image.Fetcher {
	if e.Fetcher == nil {
		e.Fetcher = &image.Fetcher{Cache: e.Cache, Mirrors: w.Mirrors()}
	}
	return e.Fetcher
}

// fallback is the image that "auto" means if Ubuntu's server does not answer.
var fallback = image.Ref{Kind: image.KindPackages, Name: image.Debian12}

// resolveImage resolves "auto" to the catalogue's default if the cache has it or its server
// answers, else to fallback, with a note for the user. Any other ref is returned unchanged.
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
	return fallback, r.Host() + " does not answer: the VM will use Debian 12, built from this machine's package mirror", nil
}

// cachedImage looks up an image in the cache without asking any server.
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

// RoomFor returns the size of the disk in GB: gb, or more if the image needs it and the user gave
// no size. An image that is not in the cache yet is checked when the disk is created.
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
