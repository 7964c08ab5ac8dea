package target

import (
	"context"
	"errors"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/sshcfg"
)

// FreeName refuses a name for a new VM if it already means another host to ssh. A default name
// is replaced by the next free one.
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

// Identities returns the keys that the guest accepts: the configured one, and aivm's own key if
// using the configured one may need a passphrase.
func (e Finder) Identities(ctx context.Context, w *Target) ([]sshcfg.Identity, error) {
	ids, err := e.SSH.Identities(ctx, e.Expand(w.Record.Paths.SSHIdentityFile), e.Getenv)
	if err != nil {
		return nil, err
	}
	if w.Record.Paths.SSHIdentityFile == "" || len(ids) < 2 {
		return ids, nil
	}
	// Both exist: add aivm's own key only if the configured one needs the ssh agent and the
	// agent does not have it now.
	if ids[0].Usable() {
		return ids[:1], nil
	}
	return ids, nil
}

// WithImage returns w with --image, if that is given. It replaces all of the config's values for
// the image: a digest there belongs to another image.
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

// ImageRef returns the image for a new disk, from --image or the record; note tells the user how
// keys of aivm 0.3 were read.
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

// Mirrors returns the servers to ask first: the record's, else the defaults'.
func (w *Target) Mirrors() []string {
	if len(w.Record.Image.Mirror) > 0 || w.Store == nil {
		return w.Record.Image.Mirror
	}
	return w.Store.Config.Defaults.Image.Mirror
}

// NotAdopted returns the refusal of a VM in the config that aivm 0.3 made and `vm adopt` has not
// adopted: it can be listed and reached by ssh, and nothing else.
func NotAdopted(vm string) error {
	return ui.Refused("%s", domain.Foreign(vm)).
		Hint(ui.CmdFor("made by aivm 0.3? see what adopting it changes", "aivm vm adopt "+vm+" --dry-run"),
			ui.CmdFor("to log in to it as it is", "ssh "+vm), ui.CmdFor("not yours? give your VM another name", "aivm config edit"))
}

// CheckOwner refuses a VM in the config whose domain has another owner, or no mark.
func CheckOwner(w *Target, d *virt.Domain, uid int) error {
	if !d.Mark.Exists {
		return NotAdopted(w.Name)
	}
	return domain.CheckOwner(d, uid)
}

// ExplainUnknown returns err or, if it is about a VM name that is not in the config, but that a domain
// of another owner has, the refusal of that domain.
func (e Finder) ExplainUnknown(ctx context.Context, store *config.Store, err error) error {
	var unknown *config.UnknownVMError
	if !errors.As(err, &unknown) || unknown.Source != "flag" {
		return err
	}
	u, uerr := store.Config.LibvirtOf(unknown.Name)
	if uerr != nil {
		return err
	}
	l, lerr := e.LibvirtAt(ctx, u)
	if lerr != nil {
		return err
	}
	if d, derr := l.Domain(ctx, unknown.Name); derr == nil {
		if foreign := domain.CheckOwner(d, e.UID); foreign != nil {
			return foreign
		}
	}
	return err
}
