package provision

import (
	"context"
	"strings"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/image"
)

// chooseImage takes --image, which counts for what the config says of the image
// as a whole: a digest there is that of another one.
func (w *want) chooseImage(name string) error {
	if name == "" {
		return nil
	}
	ref, err := image.Parse(name)
	if err != nil {
		return err
	}
	w.image = ref.Full()
	c := &w.record.Image
	c.Name, c.SHA256, c.SHA512, c.UbuntuImgURL = w.image, "", "", ""
	return nil
}

// imageRef is the image a new disk is made from, by --image or the record; note
// is what a person should know about how 0.3's keys were read.
func (w *want) imageRef() (ref image.Ref, note string, err error) {
	c := w.record.Image
	switch name := c.Name; {
	case w.image != "":
		ref, err = image.Parse(w.image)
		return ref, "", err
	case (name == "" || name == image.KindAuto) && c.UbuntuImgURL != "":
		if ref, note, err = image.FromOldURL(c.UbuntuImgURL, c.SHA256 != "" || c.SHA512 != ""); err != nil {
			return ref, "", ui.Refused("image.ubuntu_img_url in the config: %w", err).Hint("aivm config edit")
		}
	case name == "":
		ref.Kind = image.KindAuto
	default:
		if ref, err = image.Parse(name); err != nil {
			return ref, "", err
		}
	}
	if !ref.Pinned() {
		ref.SHA256 = strings.ToLower(c.SHA256)
		if ref.SHA256 == "" {
			ref.SHA512 = strings.ToLower(c.SHA512)
		}
	}
	return ref, note, nil
}

// mirrors are the servers to ask first: the record's, else the defaults'.
func (w *want) mirrors() []string {
	if len(w.record.Image.Mirror) > 0 || w.store == nil {
		return w.record.Image.Mirror
	}
	return w.store.Config.Defaults.Image.Mirror
}

// fetcher gets images for w; one for a run, so that a server is asked once
// whether it answers.
func (e *Env) fetcher(w *want) *image.Fetcher {
	if e.fetch == nil {
		e.fetch = &image.Fetcher{Cache: e.Cache, Mirrors: w.mirrors()}
	}
	return e.fetch
}

// fallback is what "auto" stands for when Ubuntu's server does not answer.
var fallback = image.Ref{Kind: image.KindPackages, Name: image.Debian12}

// resolveImage turns "auto" into what it stands for here and now, with a
// sentence for the person where that is not the first choice: what the cache
// has of the catalogue's default, the default itself if its server answers,
// else the build from packages.
func (e *Env) resolveImage(ctx context.Context, w *want, ref image.Ref) (image.Ref, string, error) {
	if ref.Kind != image.KindAuto {
		return ref, "", nil
	}
	def := ref
	def.Kind, def.Name = image.KindCatalogue, image.Default
	if _, ok, err := e.Cache.Lookup(def); ok || err != nil || def.Pinned() {
		return def, "", err
	}
	if e.answers == nil {
		yes := e.fetcher(w).Answers(ctx)
		if err := ctx.Err(); err != nil {
			return ref, "", err
		}
		e.answers = &yes
	}
	if *e.answers {
		return def, "", nil
	}
	r, _ := image.Find(image.Default)
	return fallback, r.Host() + " does not answer: the VM gets Debian 12, built from this machine's package mirror", nil
}

// cachedImage looks for an image without asking any server.
func (e *Env) cachedImage(ref image.Ref) (image.Entry, bool, error) {
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

// needsBuild reports whether the image would have to be built here.
func (e *Env) needsBuild(ctx context.Context, w *want) bool {
	asked, _, err := w.imageRef()
	if err != nil {
		return false
	}
	ref, _, err := e.resolveImage(ctx, w, asked)
	if err != nil || ref.Kind != image.KindPackages {
		return false
	}
	_, ok, err := e.Cache.Lookup(ref)
	return err == nil && (!ok || w.again)
}

// roomFor makes a disk large enough for the image, where its size was not asked
// for; an image that is not here yet is looked at when the disk is made.
func (w *want) roomFor(base func() (domain.Base, error), gb int) (int, error) {
	b, err := base()
	if err != nil || b.Disk <= int64(gb)<<30 {
		return gb, nil
	}
	if w.wish.DiskGB == 0 {
		return int((b.Disk + 1<<30 - 1) >> 30), nil
	}
	return gb, domain.TooSmall(b.Disk, gb)
}
