package templates

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
)

// Result is what "aivm setup" prints with --json.
type Result struct {
	Schema   int                `json:"schema"`
	Template string             `json:"template"`
	Key      string             `json:"key"`
	Changed  bool               `json:"changed"`
	Why      string             `json:"why,omitempty"` // it was rebuilt
	Image    string             `json:"image"`
	Accel    string             `json:"accel"`
	Size     int64              `json:"size"`
	Created  string             `json:"created"`
	Versions map[string]string  `json:"versions"`
	Seconds  map[string]float64 `json:"seconds"`

	Old bool `json:"-"` // its packages are older than OldAfter
}

// The bytes that the steps of a plan take, for its text, measured with Debian 12.
const (
	toolsDownloadMB = 80
	toolsDiskMB     = 450
)

// Setup builds the template that o names, if there is none that fits. source finds the disk that it
// is made from.
func (e Part) Setup(ctx context.Context, o Options, source func(ctx context.Context, image string) (Source, error)) (Result, error) {
	e.Timing = ui.NewTiming("setup")
	var f facts
	w := &work{Part: e, debug: o.Debug}
	defer w.close()
	changed, why := false, ""
	_, err := e.RunJob(ctx, loop.Job{
		Plan: func(ctx context.Context) (plan.Plan, error) {
			store, err := e.Load()
			if err != nil {
				return plan.Plan{}, err
			}
			wanted, _, err := newSpec(o, &store.Config, machineSize{})
			if err != nil {
				return plan.Plan{}, err
			}
			src, err := source(ctx, wanted.Image)
			if err != nil {
				return plan.Plan{}, err
			}
			if f, err = e.observe(ctx, o, src); err != nil {
				return plan.Plan{}, err
			}
			why = cmp.Or(why, f.Rebuild)
			return e.plan(f, w), nil
		},
		Applied: func(p plan.Plan, _ bool) { changed = changed || p.Has(saveID) },
		Refresh: func() error { e.Reload(); return nil },
	})
	if err != nil {
		return Result{}, err
	}
	all, err := e.Backend.Published(nil)
	if err != nil {
		return Result{}, err
	}
	c := newest(all, f.Spec.Name)
	if c == nil {
		return Result{}, ui.Failed("the template %q was removed while aivm worked", f.Spec.Name).Hint(ui.CmdFor("try again", e.Rerun))
	}
	r := Result{
		Schema: 1, Template: f.Spec.Name, Key: c.Key, Changed: changed, Image: c.Setup.Spec.Image, Accel: c.Accel, Size: c.Size,
		Created: c.Created.Format(time.RFC3339), Versions: c.Setup.Versions, Seconds: session.Seconds(e.Timing),
		Old: e.Now().Sub(c.Setup.Installed) > OldAfter,
	}
	if changed {
		r.Why = why
	}
	return r, nil
}

// saveID is the action that publishes the template.
const saveID = "template.save"

// plan plans what is missing before runs can use the template.
func (e Part) plan(f facts, w *work) (p plan.Plan) {
	p.Stage = plan.Host
	if f.Rebuild == "" {
		if f.Record {
			p.Add(e.recordAction(f))
		}
		return p
	}
	if f.Current != nil {
		p.Say("the template " + f.Spec.Name + " is rebuilt: " + f.Rebuild)
	}
	if f.Machinery.Accel != "kvm" {
		p.Say("VMs are emulated here, so this takes several minutes: " + f.Machinery.Why)
	}
	if !f.Source.Cached {
		// The rest depends on the image, so it is planned again with it.
		for _, a := range f.Source.Missing.Actions {
			a.Again = true
			p.Add(a)
		}
		p.Notes = append(p.Notes, f.Source.Missing.Notes...)
		f.Steps = nil
		for _, s := range f.Spec.steps("", f.Registry) {
			f.Steps = append(f.Steps, stepFact{step: s})
		}
	}
	for i, s := range f.Steps {
		if !s.Done {
			p.Add(e.stepAction(f, i, w))
		}
	}
	p.Add(plan.Action{
		ID: saveID, Consent: plan.Ask, Timing: "save",
		Why:   fmt.Sprintf("boot the VM, save its state as the template %q, and resume it once as a trial", f.Spec.Name),
		Shows: []string{fmt.Sprintf("%d MB of memory, %d CPUs, a disk of up to %d GB", f.Spec.MemoryMB, f.Spec.CPUs, f.Spec.DiskGB), "write " + Dir(e.Cache.Dir) + "/"},
		Do:    func(ctx context.Context) error { return w.save(ctx, f) },
	})
	if f.Record {
		p.Add(e.recordAction(f))
	}
	return p
}

// stepAction plans the i-th step.
func (e Part) stepAction(f facts, i int, w *work) plan.Action {
	s := f.Steps[i]
	a := plan.Action{ID: "template." + s.name, Consent: plan.Ask, Timing: s.name}
	switch s.name {
	case stepTools:
		a.Why = fmt.Sprintf("install the default tools in a VM: downloads about %d MB, takes about %d MB of disk", toolsDownloadMB, toolsDiskMB)
		a.Shows = []string{"apt-get install " + strings.Join(defaultPackages, " "), "Node and npm from " + f.Registry.URL}
	case stepPackages:
		a.Why = "install the packages of --packages in a VM"
		a.Shows = []string{"apt-get install " + strings.Join(f.Spec.Packages, " ")}
	case stepScript:
		a.Why = fmt.Sprintf("run %s (SHA-256 %s) in a VM, as its root", f.Spec.Script, f.Spec.ScriptSHA256[:16])
	}
	a.Do = func(ctx context.Context) error { return w.makeStep(ctx, f, i) }
	return a
}

// recordAction plans to write the flags into the template's section of the config.
func (e Part) recordAction(f facts) plan.Action {
	t := f.Section
	return plan.Action{
		ID: "template.record", Why: fmt.Sprintf("record the settings of the template %q in the config", t.Name),
		Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			defer e.Reload()
			return config.Update(ctx, e.StorePath, func(c *config.Config) error {
				c.UpsertTemplate(t)
				return nil
			})
		},
	}
}
