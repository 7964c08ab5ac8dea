package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// explainWait adds what the host knows to a wait that ended badly: the state of
// the domain, the address, the last lines of the serial console.
func (e *Env) explainWait(ctx context.Context, w *target.Target, inst *state.Instance, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	msg := fmt.Sprintf("VM %q did not become reachable at %s", w.Name, inst.Address)
	state := "unknown"
	var serial, why []string
	if l, lerr := e.Libvirt(ctx); lerr == nil {
		if d, derr := l.Domain(ctx, w.Name); derr == nil {
			state = string(d.State)
			if d.Crashed {
				state += ", QEMU crashed or was killed"
				why = []string{"what it said last: sudo tail -n 5 /var/log/libvirt/qemu/" + w.Name + ".log"}
			}
		} else if errors.Is(derr, virt.ErrNotFound) {
			state = "gone"
		}
		serial = e.SerialTail(ctx, l, w, 12)
	}
	out := ui.Failed("%s: %w (domain state: %s)", msg, err, state)
	if errors.Is(err, loop.ErrUnplugged) {
		return out.Hint("aivm vm restart " + w.Name)
	}
	for _, s := range serial {
		out.Hint("serial: " + s)
	}
	for _, s := range append(why, walls.For(e.Loop).WhyCutOff(ctx, w)...) {
		out.Hint(s)
	}
	return out.Hint("watch the console: virsh -c qemu:///system console "+w.Name, "aivm vm status "+w.Name, "try again: "+e.Rerun)
}
