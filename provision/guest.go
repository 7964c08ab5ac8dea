package provision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

// bootLimit is how long a boot may take: generous with KVM, and long enough
// for an emulated CPU on a busy machine.
func (e *Env) bootLimit() time.Duration {
	if accel, _ := host.Accel(e.hostFacts()); accel == "kvm" {
		return 4 * time.Minute
	}
	return 10 * time.Minute
}

// wait holds on until the guest lets us in, says what is awaited, and gives up
// early when the domain is no longer running.
func (e *Env) wait(ctx context.Context, w *want, f *facts) error {
	inst, err := e.state().Instance(w.name)
	if err != nil {
		return err
	}
	if inst == nil {
		return ui.Failed("what aivm knew of VM %q is gone, its host key too: %s", w.name, e.SSH.VMDir(w.name)).
			Hint("put that directory back from a backup", "look at the VM: virsh -c qemu:///system console "+w.name,
				"or give it up with its disk: aivm vm delete "+w.name)
	}
	f.inst = inst
	t, done, err := e.target(ctx, w, inst)
	if err != nil {
		return err
	}
	defer done()
	stop := e.timing.Start("boot")
	defer stop()
	task := e.UI.Task("waiting for " + w.name)
	wctx, cancel := context.WithTimeout(ctx, e.bootLimit())
	defer cancel()
	wctx, stopWatch := e.watchDomain(wctx, w.name)
	defer stopWatch()
	c, err := e.awaitGuest(wctx, t, func(phase guest.Phase, _ time.Duration) { task.Detail("%s", phase) })
	if err != nil {
		task.Fail()
		if ctx.Err() != nil {
			return &ui.Error{
				Exit: ui.ExitInterrupted, Kind: "interrupted", Message: "interrupted; the VM goes on booting",
				Hints: []string{"to go on: " + e.Rerun, "to stop it: aivm vm down " + w.name}, Err: ctx.Err(),
			}
		}
		var hk *guest.HostKeyError
		if errors.As(err, &hk) {
			return e.hostKeyRefusal(w.name, err)
		}
		if cause := context.Cause(wctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
			err = cause
		}
		return e.explainWait(ctx, w, inst, err)
	}
	task.Done()
	f.conn = c
	if f.guest, err = e.probe(ctx, c, w); err == nil {
		w.settleGit(ctx)
	}
	return err
}

// errNotRunning ends a wait for a guest whose domain has stopped.
var (
	errNotRunning = errors.New("the domain is no longer running")
	errPaused     = errors.New("the domain was paused, as QEMU does when the disk is full")
	errUnplugged  = errors.New("its network was stopped while it ran, and libvirt does not plug it in again")
)

// sysNet shows the interfaces of this machine, and what each is plugged into
// (sysfs-class-net, "master").
const sysNet = "/sys/class/net"

// unplugged reports whether the interface is there and in no bridge.
func unplugged(tap string) bool {
	if tap == "" {
		return false
	}
	if _, err := os.Lstat(filepath.Join(sysNet, tap)); err != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(sysNet, tap, "master"))
	return errors.Is(err, fs.ErrNotExist)
}

// watchDomain cancels the context when libvirt says that the domain stopped, or
// when nobody can reach it.
func (e *Env) watchDomain(ctx context.Context, name string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		loose := 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(2 * time.Second):
			}
			l, err := e.libvirt(ctx)
			if err != nil {
				continue // could not ask: not a reason to stop waiting
			}
			d, err := l.Domain(ctx, name)
			if errors.Is(err, virt.ErrNoDaemon) {
				e.dropLibvirt()
			}
			if err == nil && d.State == virt.Paused {
				cancel(errPaused)
				return
			}
			if err != nil || d.State != virt.Running || !unplugged(d.Tap) {
				loose = 0
			} else if loose++; loose > 1 {
				cancel(errUnplugged)
				return
			}
			if err == nil && d.State == virt.Off || errors.Is(err, virt.ErrNotFound) {
				cancel(errNotRunning)
				return
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// planGuest is what is missing inside the guest.
func (e *Env) planGuest(w *want, f *facts) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Guest}
	if b := f.guest.boot; !f.inst.Adopted && b.Installed && b.Finished && !b.Disabled {
		p.Add(plan.Action{
			ID: "cloudinit.off", Why: "switch cloud-init off, the first boot is over", Timing: "ssh",
			Shows: []string{"touch /etc/cloud/cloud-init.disabled"},
			Do: func(ctx context.Context) error {
				return e.asRoot(ctx, f.conn, "switching cloud-init off", cloudinit.DisableScript(), nil)
			},
		})
	}
	p.Add(e.planClock(w, f)...)
	as, err := e.planMounts(w, f)
	p.Add(as...)
	if err != nil {
		return p, err
	}
	as, err = e.planGitGuest(w, f)
	if p.Add(as...); err != nil {
		return p, err
	}
	p.Add(e.planSettings(w, f)...)
	return p, nil
}

// mountInGuest runs the mount script and believes only what the guest's mount
// table says afterwards.
func (e *Env) mountInGuest(ctx context.Context, w *want, f *facts, script string) error {
	atts := w.atts()
	out, stderr := capture.Head{Limit: guestWords}, capture.Head{Limit: guestWords}
	code, err := f.conn.Run(ctx, guest.Cmd{
		Argv: []string{"sudo", "-n", "sh", "-s"}, Stdin: strings.NewReader(script),
		Stdout: &out, Stderr: &stderr,
	})
	if err != nil {
		return fmt.Errorf("mounting the folders in the guest: %w", err)
	}
	if strings.Contains(out.String(), "aivm-share-note list\n") {
		e.warnOnce("VM " + w.name + " could not note its folders: after a restart of its own they come back with the next aivm command only: " + lastLine(stderr.String()))
	}
	if err := e.leaveOutAll(w, share.GuestError(code, []byte(out.String()), []byte(stderr.String()), atts)); err != nil {
		return err
	}
	g, err := e.probe(ctx, f.conn, w)
	if err != nil {
		return err
	}
	f.guest = g
	var errs []error
	for _, a := range w.atts() {
		if err := share.Verify(g.share, f.share, a); err != nil {
			errs = append(errs, &share.FolderError{Folder: a.HostPath, Err: err})
		}
	}
	return e.leaveOutAll(w, errors.Join(errs...))
}

// asRoot runs a script in the guest as root and returns its last words on
// failure.
func (e *Env) asRoot(ctx context.Context, c guest.Conn, what, script string, out *capture.Head) error {
	stderr := capture.Head{Limit: guestWords}
	cmd := guest.Cmd{Argv: []string{"sudo", "-n", "sh", "-s"}, Stdin: strings.NewReader(script), Stderr: &stderr}
	if out != nil {
		cmd.Stdout = out
	}
	code, err := c.Run(ctx, cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if code != 0 {
		return ui.Failed("%s failed in the guest (status %d): %s", what, code, lastLine(stderr.String()))
	}
	return nil
}

// guestWords is how much is kept of what a program in a guest writes.
const guestWords = 256 << 10

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return ui.CleanTo(lines[len(lines)-1], 300)
}

// planFinish is what is recorded and cleaned up on the host once the guest is
// as it should be.
func (e *Env) planFinish(ctx context.Context, w *want, f *facts) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	// cloud-init reads the seed in its first stages only; they are over when
	// sshd has started with our keys, but a guest is asked and not trusted to
	// be like others.
	b := f.guest.boot
	if f.conn != nil && (!b.Installed || b.Disabled || b.Finished || b.SeedRead) {
		pool := domain.PoolFor(f.domain.Pool.Value, e.baseDir(w.record.Paths), DefaultBaseDir)
		if as := domain.PlanRemoveSeed(f.domain, w.name, e.key(w.name), pool, e.domains(ctx)); len(as) > 0 {
			p.Add(syncFirst(f))
			p.Add(as...)
		}
		if f.domain.Domain.Err == nil && f.domain.Pool.Err == nil && f.inst != nil && f.inst.SeedLeft {
			in := *f.inst
			in.SeedLeft = false
			p.Add(plan.Action{
				ID: "seed.forget", Why: "remember that the seed is gone", Shows: []string{"write " + e.state().InstancePath(w.name)},
				Do: func(context.Context) error { return e.state().SaveInstance(w.name, in) },
			})
		}
	}
	if w.newFolder && w.folder != nil {
		a := *w.folder
		p.Add(plan.Action{
			ID: "store.attach:" + a.Tag, Why: "record the folder in the config", Shows: []string{"write " + e.StorePath},
			Do: func(ctx context.Context) error {
				if a.Mode == share.Git {
					if err := stateErr(e.state().VM(a.VM), e.state().NoteClone(a)); err != nil {
						return err
					}
				}
				return config.Update(ctx, e.StorePath, func(c *config.Config) error {
					rec := config.Attachment{HostPath: a.HostPath, VMName: a.VM, Mode: string(a.Mode), Access: a.Access, GuestDst: a.GuestDst, Tag: a.Tag, TypedPath: a.Typed, Protect: a.Protect}
					c.UpsertAttachment(rec)
					return nil
				})
			},
		})
	} else if w.newTyped {
		p.Add(e.recordTyped(*w.folder))
	}
	return p
}

// syncFirst has the guest write to its disk what it has of the seed: user, keys
// and network. The kernel keeps it in memory for half a minute, and a guest that
// is switched off at once within that time would come back as somebody else,
// with no seed to tell it.
func syncFirst(f *facts) plan.Action {
	return plan.Action{
		ID: "seed.sync", Why: "have the guest write its first boot to its disk", Shows: []string{"sync"}, Timing: "boot",
		Do: func(ctx context.Context) error {
			code, err := f.conn.Run(ctx, guest.Cmd{Argv: []string{"sync"}})
			if err == nil && code != 0 {
				err = fmt.Errorf("sync ended with status %d in the guest", code)
			}
			return err
		},
	}
}

// serialTail returns the last lines the guest wrote to its serial console,
// made harmless.
func (e *Env) serialTail(ctx context.Context, l *virt.Conn, w *want, n int) []string {
	pool, err := l.PoolAt(ctx, e.baseDir(w.record.Paths))
	if err != nil {
		return nil
	}
	b, err := l.ReadTail(ctx, pool.Name, domain.SerialVolume(e.key(w.name)), 8<<10)
	if err != nil {
		return nil
	}
	return lastSerial(b, n)
}

func lastSerial(b []byte, n int) []string {
	var out []string
	for _, s := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if s = strings.TrimSpace(ui.CleanTo(s, 200)); s != "" {
			out = append(out, s)
		}
	}
	return out[max(0, len(out)-n):]
}
