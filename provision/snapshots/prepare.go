package snapshots

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aivm.dev/aivm/internal/pause"

	"github.com/google/uuid"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// PrepareOptions are the flags of `vm prepare`.
type PrepareOptions struct {
	Name    string
	As      string // name of the image
	Replace bool   // --replace: an image of that name may exist; the name moves to the new image
}

// Prepared is what `vm prepare` prints with --json.
type Prepared struct {
	Schema  int                `json:"schema"`
	VM      string             `json:"vm"`
	Image   string             `json:"image"`
	SHA256  string             `json:"sha256"`
	Size    int64              `json:"size"`
	Seconds map[string]float64 `json:"seconds,omitempty"`

	Timing *ui.Timing `json:"-"`
}

// preparation holds the facts about a VM from which an image is created.
type preparation struct {
	w     *target.Target
	ref   image.Ref
	l     *virt.Conn
	d     *virt.Domain
	pool  *virt.Pool
	chain []virt.Volume // its disk and the backing files
	inst  *state.Instance
	facts *loop.Facts // with the firewall of the copy
	spec  domain.Spec
	open  []string // the sessions that end when the VM is stopped
	entry image.Entry
}

// Prepare creates an image from a VM: new VMs from it have the programs that are installed in it,
// and their first boot is short. The VM is off during that; its disk is only read.
func (e Part) Prepare(ctx context.Context, o PrepareOptions) (Prepared, error) {
	e.Timing = ui.NewTiming("stop", "boot", "image")
	if o.As == "" {
		return Prepared{}, ui.Usage("the image needs a name").Hint(ui.Cmd(ui.AddFlag(e.Rerun, "--as tools")))
	}
	if err := image.CheckLocalName(o.As); err != nil {
		return Prepared{}, err
	}
	pr := &preparation{}
	var stateBefore virt.State // of the VM, before it was stopped
	begun, dropped := false, false
	drop := func(ctx context.Context) {
		dropped = true
		e.dropCopy(ctx, pr)
	}
	_, err := e.RunJob(ctx, loop.Job{
		VM: func() string { return o.Name },
		Plan: func(ctx context.Context) (plan.Plan, error) {
			now, err := e.findForPrepare(ctx, o)
			if err != nil {
				return plan.Plan{}, err
			}
			*pr = *now
			o.Name = pr.w.Name
			if !begun {
				// Another run may have started or stopped the VM since the last observation.
				stateBefore = pr.d.State
			}
			return e.planPrepare(ctx, pr)
		},
		Follow: func() []plan.Action {
			if stateBefore == virt.Off {
				return nil
			}
			return loop.StartAgain(pr.w)
		},
		Dry: func(p plan.Plan) error { return e.Dry("prepare", o.Name, p) },
		Refresh: func() error {
			if pr.w == nil {
				return nil
			}
			_, err := e.Refresh(pr.w)
			return err
		},
		Applied: func(plan.Plan, bool) { begun = true },
		Failed: func(ctx context.Context, _ plan.Plan, _ bool, err error) error {
			begun = true
			drop(ctx)
			return err
		},
		Then: func(ctx context.Context, _, _ bool) error {
			drop(ctx)
			return e.Stopped(ctx, o.Name)
		},
	})
	if begun && !dropped {
		drop(ctx) // a later observation failed
	}
	if begun && stateBefore != virt.Off && ctx.Err() == nil {
		err = errors.Join(err, e.startAgain(ctx, o.Name))
	}
	if err != nil {
		return Prepared{}, e.WithRerunHint(err)
	}
	return Prepared{Schema: 1, VM: o.Name, Image: o.As, SHA256: pr.entry.SHA256, Size: pr.entry.Size, Seconds: session.Seconds(e.Timing), Timing: e.Timing}, nil
}

// dropCopy removes the copy of the VM, also after Ctrl-C.
func (e Part) dropCopy(ctx context.Context, pr *preparation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := domain.DropCopy(ctx, pr.l, pr.w.Name, e.Key(pr.w.Name), e.UID, pr.pool.Name, pr.pool.Path); err != nil {
		e.UI.Warn("the copy of VM %s could not be removed: %v; the next run that starts the VM or creates an image from it will remove it", pr.w.Name, err)
	}
}

// findForPrepare finds the VM and its disk, and refuses a VM that no image can be created from.
func (e Part) findForPrepare(ctx context.Context, o PrepareOptions) (_ *preparation, err error) {
	ref := image.Ref{Kind: image.KindLocal, Name: o.As}
	if e.Cache.Has(ref) && !o.Replace {
		return nil, ui.Refused("image %s exists already", o.As).Hint(ui.CmdFor("to give the name to the new image", ui.AddFlag(e.Rerun, "--replace")), ui.Cmd("aivm image list"))
	}
	if e.HostFacts().Tools["qemu-img"] == "" {
		return nil, ui.Refused("creating an image from a VM needs qemu-img, which is not installed").Hint(ui.Cmd("aivm host install-deps"))
	}
	w, d, err := e.OwnVM(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			return
		}
		if _, rerr := e.Refresh(w); rerr != nil {
			err = rerr // another run has deleted the VM
		}
	}()
	if d == nil {
		return nil, ui.Refused("VM %q does not exist in libvirt yet", w.Name).Hint(ui.Cmd("aivm vm up " + w.Name))
	}
	pr := &preparation{w: w, ref: ref, d: d}
	if pr.inst, err = e.State().Instance(w.Name); err != nil {
		return nil, err
	}
	if pr.inst == nil {
		return nil, e.StateLost(w)
	}
	if pr.l, err = e.Libvirt(ctx); err != nil {
		return nil, err
	}
	dir := e.BaseDir(w.Record.Paths)
	pr.pool, err = pr.l.PoolAt(ctx, dir)
	if err != nil && !errors.Is(err, virt.ErrNotFound) {
		return nil, err
	}
	if err != nil || !pr.pool.Active {
		return nil, ui.Refused("the storage pool at %s is not active", dir).Hint(ui.Cmd("aivm vm up " + w.Name))
	}
	disk, ok := d.StoredDisk(domain.DiskSerial)
	if !ok {
		return nil, ui.Refused("VM %q has no disk that aivm created", w.Name)
	}
	if pr.chain, err = domain.Chain(pr.pool, disk.File); err != nil {
		return nil, err
	}
	accel, _ := host.Accel(e.HostFacts())
	pr.spec = domain.Spec{Name: w.Name, UUID: uuid.NewString(), Owner: e.UID, Arch: domain.Arch(e.HostFacts().Arch), Accel: accel, VCPUs: d.VCPUs, RAMMB: d.RAMMB, Network: d.Network, MAC: d.MAC}
	pr.open = e.OpenSessions(w.Name)
	pr.facts = &loop.Facts{Inst: pr.inst}
	e.ObserveFirewall(ctx, w, pr.facts)
	return pr, nil
}

// planPrepare plans all steps but the start of the VM afterwards.
func (e Part) planPrepare(ctx context.Context, pr *preparation) (plan.Plan, error) {
	w, dir, key := pr.w, e.BaseDir(pr.w.Record.Paths), e.Key(pr.w.Name)
	p := plan.Plan{Stage: plan.Host}
	stop := domain.PlanStop(pr.d, false, e.Domains(ctx))
	for i := range stop {
		stop[i].Consent, stop[i].Timing = plan.Ask, "stop"
		stop[i].Why += " while its disk is copied"
	}
	p.Add(domain.EndsSessions(stop, pr.open)...)
	// The copy is not trusted either: it needs the firewall before its start.
	rules, err := e.PlanFirewall(w, pr.facts)
	if p.Join(rules); err != nil {
		return p, err
	}
	drop := domain.PlanDropCopy(pr.pool, w.Name, key, e.UID, pr.pool.Name, e.Domains(ctx))
	p.Add(drop...)
	p.Add(plan.Action{
		ID: "copy.boot", Why: "boot a copy of VM " + w.Name + " without shared folders", Consent: plan.Ask, Timing: "boot",
		Shows: []string{"qemu-img create -f qcow2 -b " + pr.chain[0].Path + " " + domain.CopyPath(dir, key), "virsh create (" + domain.CopyName(w.Name) + ")"},
		Do: func(ctx context.Context) error {
			return domain.MakeCopy(ctx, pr.l, pr.pool.Name, dir, pr.chain[0], key, pr.spec)
		},
	}, plan.Action{
		ID: "copy.clean", Why: "clean the copy: remove machine id, host keys, authorized keys, cloud-init's state, logs, aivm's files", Consent: plan.Ask, Timing: "boot",
		Shows: []string{"ssh " + pr.inst.Address + " sudo sh -s"},
		Do:    func(ctx context.Context) error { return e.cleanCopy(ctx, pr) },
	}, plan.Action{
		ID: "image.make:" + pr.ref.Name, Why: "add its disk to the image cache as " + pr.ref.Name, Consent: plan.Ask, Timing: "image",
		Shows: []string{"qemu-img convert -O qcow2 COPY IMAGE", "write " + e.Cache.Dir + "/"},
		Do:    func(ctx context.Context) error { return e.addImage(ctx, pr) },
	})
	return p, nil
}

// startAgain starts a VM that ran before.
func (e Part) startAgain(ctx context.Context, name string) error {
	w, err := e.VM(ctx, name, "", false)
	if err != nil {
		return err
	}
	_, f, err := e.Converge(ctx, w.Started())
	f.Close()
	return err
}

// offLimit is how long the copy may take to power off after it was cleaned.
const offLimit = 90 * time.Second

// cleanCopy waits for the copy, which has the VM's address, cleans it, and waits until it is off.
func (e Part) cleanCopy(ctx context.Context, pr *preparation) error {
	copied := domain.CopyName(pr.w.Name)
	t, done, err := e.GuestTarget(ctx, pr.w, pr.inst)
	if err != nil {
		return err
	}
	defer done()
	wctx, cancel := context.WithTimeout(ctx, e.BootLimit())
	defer cancel()
	wctx, stop := e.WatchDomain(wctx, copied)
	defer stop()
	c, err := e.AwaitGuest(wctx, t, func(phase guest.Phase, _ time.Duration) { plan.Report(ctx, string(phase), -1) })
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if cause := context.Cause(wctx); errors.Is(cause, loop.ErrNotRunning) || errors.Is(cause, loop.ErrPaused) {
			err = cause
		}
		return e.explainCopy(ctx, pr, err)
	}
	defer c.Close()
	plan.Report(ctx, "cleaning", -1)
	out := capture.Head{Limit: session.GuestOutputLimit}
	if err := e.RunAsRoot(ctx, c, "cleaning the copy", cloudinit.CleanScript(), &out); err != nil {
		return err
	}
	if got := session.LastLine(out.String()); got != cloudinit.CleanedLine {
		return ui.Failed("cleaning the copy failed: its last line is %q", got)
	}
	_ = c.Close()
	plan.Report(ctx, "waiting until it is off", -1)
	for began := time.Now(); ; {
		d, err := pr.l.Domain(ctx, copied)
		if errors.Is(err, virt.ErrNotFound) || err == nil && d.State == virt.Off {
			return nil
		}
		if err != nil {
			return err
		}
		if time.Since(began) > offLimit {
			return ui.Failed("the copy did not power off within %s", offLimit)
		}
		if err := pause.For(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// explainCopy adds the last lines of the copy's console to the error.
func (e Part) explainCopy(ctx context.Context, pr *preparation, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	out := ui.Failed("the copy of VM %s did not become reachable: %w", pr.w.Name, err)
	if b, rerr := pr.l.ReadTail(ctx, pr.pool.Name, domain.CopySerial(e.Key(pr.w.Name)), 8<<10); rerr == nil {
		for _, s := range loop.LastSerial(b, loop.SerialLines) {
			out.Hint(ui.Remark("serial: " + s))
		}
	}
	return out.Hint(ui.CmdFor("check whether the VM itself starts", "aivm vm up "+pr.w.Name))
}

// addImage adds the copy's disk to the cache.
func (e Part) addImage(ctx context.Context, pr *preparation) error {
	var err error
	if pr.pool, err = pr.l.PoolAt(ctx, pr.pool.Path); err != nil {
		return err
	}
	top := domain.CopyPath(e.BaseDir(pr.w.Record.Paths), e.Key(pr.w.Name))
	chain, err := domain.Chain(pr.pool, top)
	if err != nil {
		return err
	}
	f := diskExporter{env: e, l: pr.l, pool: pr.pool.Name, report: func(line string, fraction float64) { plan.Report(ctx, line, fraction) }}
	pr.entry, err = f.addToCache(ctx, chain, pr.ref, fmt.Sprintf("created here from VM %s", pr.w.Name))
	return err
}
