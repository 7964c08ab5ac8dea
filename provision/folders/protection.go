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

// A file that the VM had open for writing before it was protected stays writable
// for the VM until its virtiofsd ends. aivm does not replace such a file by a copy:
// its content may come from the VM by then, and only the user can tell. aivm names
// the file and the command that ends the access.

// dropCachesLimit is how long a guest may take to drop its caches.
const dropCachesLimit = 20 * time.Second

// CheckProtected runs after this run has protected folders. It warns about files
// that the VM could write in the meantime and about those it can still write. If
// the guest only has a file in its caches, it makes the guest drop them first.
func (e Part) CheckProtected(ctx context.Context, w *target.Target, f *loop.Facts) {
	for _, a := range f.Atts(w) {
		was := f.Share.ProtectionError(a)
		if !a.Protect || !a.Exposes() || was == nil || f.Skipped[a.HostPath] != nil || waitsForStart(w, f, a) {
			continue
		}
		now, op, err := e.protectionNow(w, a)
		if errors.As(now, new(*root.OpenError)) && f.Conn != nil && op != nil {
			e.dropGuestCaches(ctx, f.Conn)
			act := plan.Action{ID: "share.protect:" + op.Token, Why: "check again whether VM " + w.Name + " has files of " + a.HostPath + " open", Shows: op.Shows(), Root: *op, Timing: "share"}
			if _, err := e.Run(ctx, plan.Plan{Actions: []plan.Action{act}}); err != nil {
				e.WarnOnce(err.Error())
			}
			now, _, err = e.protectionNow(w, a)
		}
		switch {
		case err != nil:
			e.WarnOnce(fmt.Sprintf("cannot tell whether %s is protected: %v", ui.Clean(a.HostPath), err))
		case errors.As(now, new(*root.OpenError)):
			e.WarnOnce(fmt.Sprintf("%s: %s: aivm vm restart %s", ui.Clean(a.HostPath), ui.Clean(now.Error()), w.Name))
		case now != nil && (f.Conn != nil || f.Running()):
			e.WarnOnce(fmt.Sprintf("%s is not fully protected: %s", ui.Clean(a.HostPath), ui.Clean(now.Error())))
		}
		e.warnReplaced(ctx, a, was)
	}
}

// protectionNow reads whether the protection of a holds (state, nil if it does) and
// the privileged record by which the folder was mounted.
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

// dropGuestCaches makes the guest's kernel drop dentries and inodes that nothing in
// the guest uses. Its result is ignored, since the guest could lie: the open files
// of virtiofsd show whether it worked.
func (e Part) dropGuestCaches(ctx context.Context, c guest.Conn) {
	ctx, end := context.WithTimeout(ctx, dropCachesLimit)
	defer end()
	_, _ = c.Run(ctx, guest.Cmd{
		Argv:   []string{"sudo", "-n", "sh", "-c", "sync; echo 2 >/proc/sys/vm/drop_caches; echo 2 >/proc/sys/vm/drop_caches"},
		Stdout: io.Discard, Stderr: io.Discard,
	})
}

// warnReplaced names the files that were replaced on the host, that the VM could
// write until this run protected them again, and that differ from the recorded
// checksums.
func (e Part) warnReplaced(ctx context.Context, a share.Attachment, was error) {
	r := new(root.ReplacedError)
	if !errors.As(was, &r) {
		return
	}
	then, err1 := e.State().ChecksumFiles(a)
	now, err2 := hostexec.Scan(ctx, a.HostPath)
	if err1 != nil || err2 != nil {
		return // status reports that
	}
	var names []string
	for _, d := range hostexec.Diff(then, now) {
		if slices.ContainsFunc(r.Bare, func(p string) bool { return p == d.Path || strings.HasPrefix(d.Path, p+"/") }) {
			names = append(names, d.Path)
		}
	}
	if len(names) > 0 {
		e.WarnOnce(fmt.Sprintf("in %s, these files were replaced on this machine and the VM could write them until now: %s; read them before a program runs them", ui.Clean(a.HostPath), ui.Some(names, namesShown)))
	}
}

// protectedState reports, for status, whether the protected paths of a are
// protected: what is wrong, the commands that fix it, and host.OK only if the
// protection is known to hold.
func (e Part) protectedState(w *target.Target, f *loop.Facts, s StatusFacts, a share.Attachment, now hostexec.List) (state host.State, note string, fixes []string) {
	d := f.Domain.Domain
	if d.Err == nil && (d.Value == nil || d.Value.State == virt.Off) {
		return host.OK, "", nil // an off VM writes nothing, and its next start protects the folder
	}
	fix, restart := "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+w.Name, "aivm vm restart "+w.Name
	if s.host.Err != nil {
		return host.Unknown, fmt.Sprintf("cannot tell whether %s is protected: %v", a.HostPath, s.host.Err), nil
	}
	err := s.host.Value.CheckProtection(e.Key(w.Name), a)
	switch {
	case errors.As(err, new(*root.OpenError)):
		return host.Bad, fmt.Sprintf("%s is not fully protected: %s", a.HostPath, ui.Clean(err.Error())), []string{restart}
	case errors.As(err, new(*root.FailedError)):
		return host.Bad, fmt.Sprintf("%s is not fully protected: %s", a.HostPath, ui.Clean(err.Error())), []string{fix, restart}
	case err != nil:
		return host.Bad, fmt.Sprintf("%s is not fully protected: %s", a.HostPath, ui.Clean(err.Error())), []string{fix}
	}
	if o := share.FindBypass(a, share.RecordedAll(w.Store.Config)); o != nil {
		return host.Bad, fmt.Sprintf("VM %s can write the protected files of %s through %s", o.VM, a.HostPath, o.HostPath), []string{"aivm detach " + shellescape.Quote(o.HostPath) + " --vm " + o.VM}
	}
	if _, unprotected := share.Protected(now); len(unprotected) > 0 {
		state = host.Unknown
		for _, n := range now.Files {
			if n.Type == "file" && n.Links > 1 && slices.Contains(unprotected, n.Path) {
				state = host.Bad // the VM may be able to write the file under its other name
			}
		}
		return state, fmt.Sprintf(unprotectedNote, a.HostPath, ui.Some(unprotected, namesShown)), nil
	}
	if now.Cut != "" {
		return host.Unknown, "", nil // HostExecutedCheck reports it
	}
	return host.OK, "", nil
}
