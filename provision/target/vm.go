package target

import (
	"context"
	"strings"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/sshcfg"
)

// FreeName refuses a name for a new VM under which ssh reaches something else
// today. A name nobody chose is replaced by the next that is free.
func (e Finder) FreeName(w *Target) (*Target, error) {
	taken := sshcfg.Taken(e.SSH, w.Name)
	for err, tries := taken, 0; err != nil; err, tries = sshcfg.Taken(e.SSH, w.Name), tries+1 {
		if !w.AutoName || tries == 100 {
			return w, taken
		}
		w = w.Renamed()
	}
	return w, nil
}

// Identities are the keys a guest of this VM lets in: the configured one, and
// our own where the configured one may not work without a question.
func (e Finder) Identities(ctx context.Context, w *Target) ([]sshcfg.Identity, error) {
	ids, err := e.SSH.Identities(ctx, e.Expand(w.Record.Paths.SSHIdentityFile), e.Getenv)
	if err != nil {
		return nil, err
	}
	if w.Record.Paths.SSHIdentityFile == "" || len(ids) < 2 {
		return ids, nil
	}
	// Both exist: ours is let in only where the configured key needs the agent
	// and the agent does not have it now.
	if ids[0].Usable() {
		return ids[:1], nil
	}
	return ids, nil
}

// WithImage is w with --image, if it is given, which counts for what the config says of the image
// as a whole: a digest there is that of another one.
func (w *Target) WithImage(name string) (*Target, error) {
	if name == "" {
		return w, nil
	}
	ref, err := image.Parse(name)
	if err != nil {
		return w, err
	}
	return w.with(func(t *Target) {
		t.Image = ref.Full()
		c := &t.Record.Image
		c.Name, c.SHA256, c.SHA512, c.UbuntuImgURL = t.Image, "", "", ""
	}), nil
}

// ImageRef is the image a new disk is made from, by --image or the record; note
// is what a person should know about how 0.3's keys were read.
func (w *Target) ImageRef() (ref image.Ref, note string, err error) {
	c := w.Record.Image
	switch name := c.Name; {
	case w.Image != "":
		ref, err = image.Parse(w.Image)
		return ref, "", err
	case (name == "" || name == image.KindAuto) && c.UbuntuImgURL != "":
		if ref, note, err = image.FromOldURL(c.UbuntuImgURL, c.SHA256 != "" || c.SHA512 != ""); err != nil {
			return ref, "", ui.Refused("image.ubuntu_img_url in the config: %w", err).Hint(ui.Cmd("aivm config edit"))
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

// Mirrors are the servers to ask first: the record's, else the defaults'.
func (w *Target) Mirrors() []string {
	if len(w.Record.Image.Mirror) > 0 || w.Store == nil {
		return w.Record.Image.Mirror
	}
	return w.Store.Config.Defaults.Image.Mirror
}

// NotAdopted refuses a VM of the store that aivm 0.3 made and nobody has taken
// over: it is listed and can be reached by ssh, and nothing else.
func NotAdopted(vm string) error {
	return ui.Refused("VM name %q is taken by a domain aivm did not make, nor has taken over", vm).
		Hint(ui.CmdFor("made by aivm 0.3? see what taking it over means", "aivm vm adopt "+vm+" --dry-run"),
			ui.CmdFor("to get into it as it is", "ssh "+vm), ui.CmdFor("not yours? give your VM another name", "aivm config edit"))
}

// checkOurs refuses a VM of the store that is somebody else's, or nobody's yet.
func (e Finder) checkOwner(w *Target, d *virt.Domain) error {
	if !d.Mark.Ours {
		return NotAdopted(w.Name)
	}
	return domain.CheckOwner(d, e.UID)
}
