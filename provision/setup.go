package provision

import (
	"context"
	"slices"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/vmpi"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/templates"
)

// The options and results of setup, and a template as status and list show it.
type (
	SetupResult    = templates.Result
	TemplateListed = templates.Listed
	SetupImported  = vmpi.Imported
)

// SetupOptions are the flags of setup.
type SetupOptions struct {
	templates.Options
	FromVM string // make an image of this VM's disk first, and the template of that
}

// Setup builds the template of one-shot VMs that o names, if there is none that fits.
func (e *Env) Setup(ctx context.Context, o SetupOptions) (SetupResult, error) {
	if e.UID == 0 {
		return SetupResult{}, ui.Refused("aivm setup does not work as root: the templates are for aivm run, which refuses root").
			Hint(ui.Remark("run it as an ordinary user"))
	}
	if o.FromVM != "" {
		if o.Image != "" {
			return SetupResult{}, ui.Usage("--from-vm and --image are given: a template has one disk")
		}
		e.UI.Warn("the template will have what is on the disk of VM %s: also tokens, histories and files of its user. Host keys, machine-id and what aivm installed are removed", o.FromVM)
		p, err := e.Prepare(ctx, PrepareOptions{Name: o.FromVM, As: "vm-" + o.FromVM, Replace: true})
		if err != nil {
			return SetupResult{}, err
		}
		o.Image = p.Image
	}
	return templates.For(e.Loop).Setup(ctx, o.Options, e.templateImage)
}

// Templates lists the templates of one-shot VMs.
func (e *Env) Templates(ctx context.Context) ([]TemplateListed, error) {
	return templates.For(e.Loop).List(ctx)
}

// templateImage finds the image that a template is made from. It is one of the cache, or one that the
// user can download; nothing is built, since that takes root.
func (e *Env) templateImage(ctx context.Context, name string) (templates.Source, error) {
	store, err := e.Load()
	if err != nil {
		return templates.Source{}, err
	}
	if name == image.KindAuto {
		if name, err = e.cachedTemplateImage(); err != nil {
			return templates.Source{}, err
		}
	}
	w := &target.Target{Store: store, Record: config.VM{Image: store.Config.Defaults.Image}}
	if w, err = w.WithImage(name); err != nil {
		return templates.Source{}, err
	}
	part := images.For(e.Loop)
	f := part.Observe(ctx, w)
	s := templates.Source{Name: f.Ref.String(), Entry: f.Entry, Cached: f.Cached && !f.Refetch}
	if f.Builds() {
		return s, ui.Refused("the image %s is not in the cache, and building it takes root, which setup does not use", s.Name).
			Hint(ui.CmdFor("to build it first", "aivm image fetch "+s.Name), ui.CmdFor("to see other images", "aivm image list"))
	}
	s.Missing, _, err = part.Plan(w, f)
	return s, err
}

// cachedTemplateImage returns what "auto" means for a template: the default image or the one that is
// built, if the cache has one of them, else any image that the cache has under a public name, else
// "auto".
func (e *Env) cachedTemplateImage() (string, error) {
	all, err := e.Cache.List()
	if err != nil {
		return "", err
	}
	var names []string
	for _, k := range all {
		if k.Complete {
			names = append(names, k.Names...)
		}
	}
	for _, known := range append([]string{image.Default, image.KindPackages + ":" + image.Debian12}, image.Known()...) {
		if known != image.KindAuto && slices.Contains(names, known) {
			return known, nil
		}
	}
	return image.KindAuto, nil
}

// ImportVMPI takes the settings of a file of vmpi over into the config, after showing them.
func (e *Env) ImportVMPI(ctx context.Context, path string) (SetupImported, error) {
	i, err := e.VMPIImport(path)
	if err != nil {
		return i, err
	}
	_, err = e.RunJob(ctx, loop.Job{Plan: func(context.Context) (plan.Plan, error) {
		return planImport(i, e.StorePath, func(ctx context.Context) error { return e.ApplyVMPIImport(ctx, i) }), nil
	}})
	e.Reload()
	return i, err
}

// planImport plans the changes of an import.
func planImport(i SetupImported, storePath string, apply func(context.Context) error) (p plan.Plan) {
	p.Stage = plan.Host
	for _, r := range i.Remarks {
		p.Say(r)
	}
	if len(i.Changes) == 0 {
		return p
	}
	a := plan.Action{ID: "config.import", Consent: plan.Ask, Why: "take settings of " + i.File + " over into " + storePath, Do: apply}
	for _, c := range i.Changes {
		a.Shows = append(a.Shows, c.String())
	}
	p.Add(a)
	return p
}
