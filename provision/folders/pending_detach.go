package folders

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// PlanPendingDetach plans to finish detaching the folders that `detach --force` or
// an interrupted run left recorded as "detaching": those whose VM is off, and those
// that are not mounted for it any more.
func (e Part) PlanPendingDetach(w *target.Target, f *loop.Facts) []plan.Action {
	off := f.Domain.Domain.Err == nil && !f.Running() && f.Conn == nil
	var out []plan.Action
	for _, a := range PendingDetach(w) {
		token := share.Token(a.HostPath)
		bound := len(f.Share.Tokens[token]) > 0
		if bound && !off {
			continue
		}
		if off {
			out = append(out, e.PlanDetachDevice(w, f, a)...)
		}
		if bound {
			op := root.Unbind{VMKey: e.Key(w.Name), Token: token}
			out = append(out, plan.Action{
				ID: "share.unbind:" + token, Why: fmt.Sprintf("unmount folder %s from the export directory of VM %s, which is off", a.HostPath, w.Name),
				Shows: op.Shows(), Root: op, Timing: "share",
			})
		}
		out = append(out, e.DropRecord(a))
	}
	return out
}

// PendingDetach returns the folders of the VM that are recorded as "detaching",
// without the one the command was given.
func PendingDetach(w *target.Target) []share.Attachment {
	if w.Store == nil {
		return nil
	}
	var out []share.Attachment
	for _, a := range share.RecordedFor(w.Store.Config, w.Name) {
		if a.State == share.Detaching && (w.Folder == nil || w.Folder.HostPath != a.HostPath) {
			out = append(out, a)
		}
	}
	return out
}

// FinishPendingDetach plans and applies PlanPendingDetach for a VM that has just
// stopped.
func (e Part) FinishPendingDetach(ctx context.Context, vm string) error {
	e.Reload()
	store, err := e.Load()
	if err != nil {
		return err
	}
	w := &target.Target{Store: store, Name: vm, Libvirt: e.URI()}
	if len(PendingDetach(w)) == 0 {
		return nil
	}
	f := &loop.Facts{}
	e.ObserveLibvirt(ctx, w, f)
	if f.Share, err = e.Shared(vm, nil); err != nil {
		return err
	}
	as := e.PlanPendingDetach(w, f)
	if len(as) == 0 {
		return nil
	}
	return e.Apply(ctx, plan.Plan{Stage: plan.Host, Actions: as})
}

// ReleaseInGuest unmounts folders in the guest and drops them from its caches. gone
// are detached for good, rest are mounted again later.
func ReleaseInGuest(ctx context.Context, c guest.Conn, gone, rest []share.Attachment) error {
	atts := append(slices.Clone(gone), rest...)
	out, stderr := capture.Head{Limit: session.GuestOutputLimit}, capture.Head{Limit: session.GuestOutputLimit}
	code, err := c.Run(ctx, guest.Cmd{
		Argv: []string{"sudo", "-n", "sh", "-s"}, Stdin: strings.NewReader(share.ReleaseScript(gone, rest)),
		Stdout: &out, Stderr: &stderr,
	})
	if err != nil {
		return fmt.Errorf("unmounting %s in the guest: %w", atts[0].GuestDst, err)
	}
	each, err := share.Split(share.GuestError(code, []byte(out.String()), []byte(stderr.String()), atts))
	for _, folder := range slices.Sorted(maps.Keys(each)) {
		err = errors.Join(err, each[folder])
	}
	return session.UnwrapSingle(err)
}
