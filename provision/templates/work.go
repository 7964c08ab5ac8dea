package templates

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// work holds the template that a run of setup builds, from its first action to the end of the run.
type work struct {
	Part
	debug io.Writer // receives what the VM prints; nil: nothing does
	draft Draft
	disk  string // digest of the step whose disk the draft has; "": the image's
}

// close deletes what was not published.
func (w *work) close() {
	if w.draft != nil {
		w.draft.Close()
	}
}

// begin makes the draft have the disk that the i-th step starts from.
func (w *work) begin(ctx context.Context, f facts, i int) error {
	if w.draft == nil {
		plan.Report(ctx, "taking the kernel out of the image", -1)
		d, err := w.Backend.Begin(ctx, DraftSpec{
			Machinery: f.Machinery, Spec: f.Spec, Image: f.Source.Entry.Path, SHA256: f.Source.Entry.SHA256, Digest: f.last(),
			Waiting: func(holder string) { plan.Report(ctx, "waiting for "+holder+", which builds this template", -1) },
		})
		if err != nil {
			return err
		}
		w.draft, w.disk = d, ""
	}
	below := ""
	if i > 0 {
		below = f.Steps[i-1].digest
	}
	if below == w.disk {
		return nil
	}
	if _, ok, err := w.layers().find(below); err != nil || !ok {
		return errors.Join(err, plan.ErrStale) // it was removed in between
	}
	w.disk = below
	return w.draft.Restore(w.layers().disk(below))
}

// makeStep boots a VM on the disk of the step before, runs the step's scripts in it, and keeps the
// disk.
func (w *work) makeStep(ctx context.Context, f facts, i int) error {
	s := f.Steps[i]
	if err := w.begin(ctx, f, i); err != nil {
		return err
	}
	if l, ok, err := w.layers().find(s.digest); err == nil && ok && !l.Created.Before(f.Fresh) {
		return plan.ErrUnneeded // by another setup, while this one waited
	}
	l := layer{Step: s.name, Created: w.Now().UTC()} // packages are as old as the start of their step
	if i > 0 {
		below, _, err := w.layers().find(f.Steps[i-1].digest)
		if err != nil {
			return err
		}
		l.Mirrors = below.Mirrors
	}
	w.disk = "unfinished"
	plan.Report(ctx, "booting a VM", -1)
	vm, err := w.draft.Start(ctx, true, w.debug)
	if err != nil {
		return err
	}
	defer vm.Close()
	if err := w.install(ctx, guestRun{vm: vm, debug: w.debug, rerun: w.Rerun}, f, i, &l); err != nil {
		return err
	}
	plan.Report(ctx, "shutting the VM down", -1)
	if err := vm.PowerOff(ctx); err != nil {
		return err
	}
	plan.Report(ctx, "keeping the disk", -1)
	if err := w.layers().make(ctx, s.digest, w.Rerun, l, w.draft.Keep); err != nil {
		return err
	}
	w.disk = s.digest
	return nil
}

// install runs the scripts of the i-th step in the VM.
func (w *work) install(ctx context.Context, g guestRun, f facts, i int, l *layer) error {
	if i == 0 {
		// Only the image, in which no program of the user ran yet, says which private addresses its
		// packages come from.
		out, err := g.output(ctx, GuestScript{Name: "sources", Text: sourcesScript})
		if err != nil {
			return err
		}
		l.Mirrors = addresses(strings.Fields(out))
		if err := g.run(ctx, GuestScript{Name: "grow", Text: growScript}, "growing the file system"); err != nil {
			return err
		}
	}
	if err := g.vm.Connect(ctx, append(addresses([]string{f.Registry.URL}), l.Mirrors...)); err != nil {
		return err
	}
	if err := g.run(ctx, GuestScript{Name: "prepare", Text: prepareScript}, "preparing the VM"); err != nil {
		return err
	}
	for _, s := range f.Steps[i].scripts {
		gs := GuestScript{Name: s.name, Text: s.text, Env: s.env, Program: s.user}
		if s.name == "node" && f.Registry.CA != nil {
			const ca = "/root/.aivm-setup/npm-ca.pem"
			gs.Env, gs.Files = append(gs.Env, "NPM_CA="+ca), map[string][]byte{ca: f.Registry.CA}
		}
		if s.name == "apt" && !f.Fresh.IsZero() {
			gs.Env = append(gs.Env, "UPGRADE=1")
		}
		what := map[string]string{"apt": "installing packages", "tools": "setting the tools up", "node": "installing Node", "script": "the script " + f.Spec.Script}[s.name]
		if err := g.run(ctx, gs, what); err != nil {
			return err
		}
	}
	out, err := g.output(ctx, GuestScript{Name: "versions", Text: versionsScript})
	l.Versions = parseVersions(out)
	return err
}

// save boots the finished disk, saves the VM's state and publishes both as a template.
func (w *work) save(ctx context.Context, f facts) error {
	if err := w.begin(ctx, f, len(f.Steps)); err != nil {
		return err
	}
	w.disk = "unfinished"
	plan.Report(ctx, "booting the VM", -1)
	vm, err := w.draft.Start(ctx, false, w.debug)
	if err != nil {
		return err
	}
	defer vm.Close()
	g := guestRun{vm: vm, debug: w.debug, rerun: w.Rerun}
	if err := g.run(ctx, GuestScript{Name: "clean", Text: cleanScript}, "cleaning the disk"); err != nil {
		return err
	}
	plan.Report(ctx, "saving the VM and resuming it as a trial", -1)
	if err := w.draft.Publish(ctx, vm, [][]string{{"/bin/sh", "-c", warmScript}}, w.setupOf(f)); err != nil {
		return err
	}
	used := map[string]bool{}
	if all, err := w.Backend.Published(nil); err == nil {
		for _, p := range all {
			for _, d := range p.Setup.Layers {
				used[d] = true
			}
		}
		w.layers().prune(ctx, w.Rerun, used, w.Now())
	}
	return nil
}

// setupOf describes what the template was built from.
func (w *work) setupOf(f facts) Setup {
	s := Setup{Spec: f.Spec, ImageSHA256: f.Source.Entry.SHA256, ImageDate: f.Source.Entry.Release, Digest: f.last(), Installed: w.Now().UTC()}
	for _, st := range f.Steps {
		s.Layers = append(s.Layers, st.digest)
		if l, ok, err := w.layers().find(st.digest); err == nil && ok {
			s.Versions = maps.Clone(l.Versions)
			if l.Created.Before(s.Installed) {
				s.Installed = l.Created
			}
		}
	}
	return s
}

// guestRun runs scripts in a VM of setup.
type guestRun struct {
	vm    Machine
	debug io.Writer
	rerun string
}

// run runs a script and shows the last line that it printed as progress. what says what it does.
func (g guestRun) run(ctx context.Context, s GuestScript, what string) error {
	tail := &capture.Tail{Limit: 4 << 10}
	plan.Report(ctx, what, -1)
	lines := &capture.Lines{Each: func(line string) {
		if line = strings.TrimSpace(line); line != "" {
			plan.Report(ctx, what+": "+ui.CleanTo(line, 100), -1)
		}
	}}
	out := io.MultiWriter(tail, lines)
	if g.debug != nil {
		out = io.MultiWriter(tail, lines, g.debug)
	}
	err := g.vm.Run(ctx, s, out)
	var ee *ExitError
	if !errors.As(err, &ee) {
		return err
	}
	e := ui.Failed("%s failed in the VM: %w", what, err)
	if last := capture.LastLines(tail.String(), 6, " | "); last != "" {
		e = ui.Failed("%s failed in the VM: %w; it printed: %s", what, err, ui.CleanTo(last, 1200))
	}
	return e.Hint(ui.CmdFor("to see everything it prints", ui.AddFlag(g.rerun, "--debug")))
}

// output runs a script that only reads, and returns what it printed, at most 64 KiB.
func (g guestRun) output(ctx context.Context, s GuestScript) (string, error) {
	head := &capture.Head{Limit: 64 << 10}
	if err := g.vm.Run(ctx, s, head); err != nil {
		return "", ui.Failed("reading the VM (%s): %w", s.Name, err)
	}
	return head.String(), nil
}
