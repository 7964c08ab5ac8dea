package folders

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// What the VM opened of a file before it was protected it can write until its
// daemon ends. Nothing here replaces such a file by a copy of it: what is in it
// may be the VM's by then, and only the person can tell. It is named, with the
// command that ends it.

// dropCachesLimit is how long a guest may take to forget files.
const dropCachesLimit = 20 * time.Second

// CheckProtected runs after folders were protected in this run. It names what
// the VM could write meanwhile, and what it still can; a guest that merely
// remembers a file is asked to forget it first.
func (e Part) CheckProtected(ctx context.Context, w *target.Target, f *loop.Facts) {
	for _, a := range f.Atts(w) {
		was := f.Share.ProtectionError(a)
		if !a.Protect || !a.Exposes() || was == nil || f.Skipped[a.HostPath] != nil || waitsForStart(w, f, a) {
			continue
		}
		now, op, err := e.protectionNow(w, a)
		if errors.As(now, new(*root.OpenError)) && f.Conn != nil && op != nil {
			e.dropGuestCaches(ctx, f.Conn)
			act := plan.Action{ID: "share.protect:" + op.Token, Why: "see again whether VM " + w.Name + " has files of " + a.HostPath + " open", Shows: op.Shows(), Root: *op, Timing: "share"}
			if _, err := e.Run(ctx, plan.Plan{Actions: []plan.Action{act}}); err != nil {
				e.WarnOnce(err.Error())
			}
			now, _, err = e.protectionNow(w, a)
		}
		switch {
		case err != nil:
			e.WarnOnce(fmt.Sprintf("whether %s is protected is not known: %v", ui.Clean(a.HostPath), err))
		case errors.As(now, new(*root.OpenError)):
			e.WarnOnce(fmt.Sprintf("%s: %s: aivm vm restart %s", ui.Clean(a.HostPath), ui.Clean(now.Error()), w.Name))
		case now != nil && (f.Conn != nil || f.Running()):
			e.WarnOnce(fmt.Sprintf("%s is not protected as it should be: %s", ui.Clean(a.HostPath), ui.Clean(now.Error())))
		}
		e.warnReplaced(ctx, a, was)
	}
}

// protectionNow reads how it stands with the protection of a, and the record by
// which it was bound.
func (e Part) protectionNow(w *target.Target, a share.Attachment) (state error, op *root.Bind, err error) {
	hf, err := e.Shared(w.Name, []share.Attachment{a})
	if err != nil {
		return nil, nil, err
	}
	if o, ok := hf.Noted[share.Token(a.HostPath)]; ok {
		op = &o
	}
	return hf.CheckProtection(e.Key(w.Name), a), op, nil
}

// dropGuestCaches has the guest's kernel forget what nothing in the guest uses.
// Whether it did is seen in the daemon, not by what the guest says.
func (e Part) dropGuestCaches(ctx context.Context, c guest.Conn) {
	ctx, end := context.WithTimeout(ctx, dropCachesLimit)
	defer end()
	_, _ = c.Run(ctx, guest.Cmd{
		Argv:   []string{"sudo", "-n", "sh", "-c", "sync; echo 2 >/proc/sys/vm/drop_caches; echo 2 >/proc/sys/vm/drop_caches"},
		Stdout: io.Discard, Stderr: io.Discard,
	})
}

// warnReplaced names the files that were replaced here, were the VM's to write
// until this run protected them again, and do not hold what was written down.
func (e Part) warnReplaced(ctx context.Context, a share.Attachment, was error) {
	r := new(root.ReplacedError)
	if !errors.As(was, &r) {
		return
	}
	then, err1 := e.State().ChecksumFiles(a)
	now, err2 := hostexec.Scan(ctx, a.HostPath)
	if err1 != nil || err2 != nil {
		return // status says that
	}
	var names []string
	for _, d := range hostexec.Diff(then, now) {
		if slices.ContainsFunc(r.Bare, func(p string) bool { return p == d.Path || strings.HasPrefix(d.Path, p+"/") }) {
			names = append(names, d.Path)
		}
	}
	if len(names) > 0 {
		e.WarnOnce(fmt.Sprintf("%s: replaced on this machine, and the VM could write it until now: %s; read it before a tool runs it", ui.Clean(a.HostPath), ui.Some(names, namesShown)))
	}
}

// protectedState says how it stands with what is to be protected of a, for
// status: what is wrong, what helps, and host.OK only if it is known to hold.
func (e Part) protectedState(w *target.Target, f *loop.Facts, s StatusFacts, a share.Attachment, now hostexec.List) (state host.State, note string, fixes []string) {
	d := f.Domain.Domain
	if d.Err == nil && (d.Value == nil || d.Value.State == virt.Off) {
		return host.OK, "", nil // nobody can write there, and it is protected when the VM starts
	}
	fix, restart := "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+w.Name, "aivm vm restart "+w.Name
	if s.host.Err != nil {
		return host.Unknown, fmt.Sprintf("whether %s is protected is not known: %v", a.HostPath, s.host.Err), nil
	}
	err := s.host.Value.CheckProtection(e.Key(w.Name), a)
	switch {
	case errors.As(err, new(*root.OpenError)):
		return host.Bad, fmt.Sprintf("%s is not protected as it should be: %s", a.HostPath, ui.Clean(err.Error())), []string{restart}
	case errors.As(err, new(*root.FailedError)):
		return host.Bad, fmt.Sprintf("%s is not protected as it should be: %s", a.HostPath, ui.Clean(err.Error())), []string{fix, restart}
	case err != nil:
		return host.Bad, fmt.Sprintf("%s is not protected as it should be: %s", a.HostPath, ui.Clean(err.Error())), []string{fix}
	}
	if o := share.FindBypass(a, share.RecordedAll(w.Store.Config)); o != nil {
		return host.Bad, fmt.Sprintf("what is protected of %s VM %s can write through %s", a.HostPath, o.VM, o.HostPath), []string{"aivm detach " + shellescape.Quote(o.HostPath) + " --vm " + o.VM}
	}
	if _, unprotected := share.Protected(now); len(unprotected) > 0 {
		state = host.Unknown
		for _, n := range now.Files {
			if n.Type == "file" && n.Links > 1 && slices.Contains(unprotected, n.Path) {
				state = host.Bad // the other name may be the VM's to write
			}
		}
		return state, fmt.Sprintf("not protected in %s, because they are links, have several names or are too many: %s", a.HostPath, ui.Some(unprotected, namesShown)), nil
	}
	if now.Cut != "" {
		return host.Unknown, "", nil // which is said there
	}
	return host.OK, "", nil
}
