package provision

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
	"aivm.dev/aivm/provision/share"
)

// planLeft finishes what `detach --force` left to the VM's stop, and what a
// killed run began: a folder on its way out whose VM is off, or that is not
// mounted for it any more.
func (e *Env) planLeft(w *want, f *facts) ([]plan.Action, error) {
	var leaving []share.Attachment
	for _, a := range attachments(w.store.Config, w.name) {
		if a.State == share.Detaching && (w.folder == nil || w.folder.HostPath != a.HostPath) {
			leaving = append(leaving, a)
		}
	}
	if len(leaving) == 0 {
		return nil, nil
	}
	hf, err := e.shared(w.name, nil)
	if err != nil {
		return nil, err
	}
	off := f.domain.Domain.Err == nil && !f.running() && f.conn == nil
	var out []plan.Action
	for _, a := range leaving {
		token := share.Token(a.HostPath)
		bound := len(hf.Tokens[token]) > 0
		if bound && !off {
			continue
		}
		if off {
			out = append(out, e.planUnplug(w, f, a)...)
		}
		if bound {
			op := root.Unbind{VMKey: e.key(w.name), Token: token}
			out = append(out, plan.Action{
				ID: "share.unbind:" + token, Why: fmt.Sprintf("take folder %s out of VM %s's reach, now that it is off", a.HostPath, w.name),
				Shows: op.Shows(), Root: op, Timing: "share",
			})
		}
		out = append(out, e.dropRecord(a))
	}
	return out, nil
}

// finishLeaving is planLeft for a VM that has just stopped.
func (e *Env) finishLeaving(ctx context.Context, vm string) error {
	e.store = nil
	store, err := e.load()
	if err != nil {
		return err
	}
	w := &want{store: store, name: vm}
	f := &facts{}
	e.observeLibvirt(ctx, w, f)
	as, err := e.planLeft(w, f)
	if err != nil || len(as) == 0 {
		return err
	}
	return e.apply(ctx, plan.Plan{Stage: plan.Host, Actions: as})
}

// releaseInGuest has the guest unmount and forget folders.
func releaseInGuest(ctx context.Context, c guest.Conn, gone, rest []share.Attachment) error {
	atts := append(slices.Clone(gone), rest...)
	out, stderr := capture.Head{Limit: guestWords}, capture.Head{Limit: guestWords}
	code, err := c.Run(ctx, guest.Cmd{
		Argv: []string{"sudo", "-n", "sh", "-s"}, Stdin: strings.NewReader(share.ReleaseScript(gone, rest)),
		Stdout: &out, Stderr: &stderr,
	})
	if err != nil {
		return fmt.Errorf("letting go of %s in the guest: %w", atts[0].GuestDst, err)
	}
	each, err := share.Split(share.GuestError(code, []byte(out.String()), []byte(stderr.String()), atts))
	for _, folder := range slices.Sorted(maps.Keys(each)) {
		err = errors.Join(err, each[folder])
	}
	return alone(err)
}
