package target

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
)

// FolderOptions are the flags of attach, code and ssh that concern a folder.
type FolderOptions struct {
	Folder         string
	VM             string
	Mode, Access   string // "" = saved or default
	GuestDst       string
	AllowSensitive []string
	Image          string
	NoFolder       bool
	Protect        bool // what this machine's tools run of it is read-only in the guest
	Reviewed       bool // write anew down what that is
	Attach         bool // the verb is attach: a subfolder may be attached for itself, a refused folder again
}

// Folder resolves the VM and the attachment of a folder verb. create says
// that a VM may be made when there is none.
func (e Finder) Folder(ctx context.Context, o FolderOptions, create bool) (*Target, error) {
	typed, real, err := ResolveFolder(o.Folder)
	if err != nil {
		return nil, err
	}
	mode, access := share.SharedRoot, "rw"
	if o.Mode != "" {
		if mode, err = share.ParseMode(o.Mode); err != nil {
			return nil, err
		}
	}
	if o.Access != "" {
		a, err := share.ParseAccess(o.Access)
		if err != nil {
			return nil, err
		}
		access = string(a)
	}
	if mode == share.Git && access == string(share.ReadOnly) {
		return nil, gitAccess(real)
	}
	if mode == share.Git && o.Protect {
		return nil, ui.Refused("--protect makes no sense with --mode git: the guest writes nothing of %s", ui.Clean(real)).
			Hint(ui.CmdFor("leave it out", "aivm attach "+shellescape.Quote(real)+" --mode git"))
	}
	if o.GuestDst != "" && (!filepath.IsAbs(o.GuestDst) || strings.ContainsAny(o.GuestDst, "\n\r\x00")) {
		return nil, ui.Usage("--guest-dst must be an absolute path in the guest, not %q", o.GuestDst).
			Hint(ui.Remark("for example: --guest-dst /home/agent/" + shellescape.Quote(filepath.Base(typed))))
	}
	dst := real
	if o.GuestDst != "" {
		dst = filepath.Clean(o.GuestDst)
	}
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	if r, ok := FindLinked(&store.Config, o.VM, typed, real); ok {
		return nil, linkedError(r, typed, real)
	}
	if len(store.Config.AttachmentsOf(real)) == 0 {
		// Nobody is asked for a VM for what cannot be shared.
		if err := e.checkAttach(mode, access, real, dst, o.AllowSensitive); err != nil {
			return nil, err
		}
	}
	w, err := e.VM(ctx, o.VM, real, create)
	if err != nil {
		return nil, err
	}
	if w, err = w.WithImage(o.Image); err != nil {
		return nil, err
	}
	w = w.with(func(t *Target) { t.typed = typed })
	if r, ok := w.SavedFor(real); ok {
		nested, err := o.nested(r, real, mode, access, dst)
		if err != nil {
			return nil, err
		}
		if !nested {
			if w, err = w.WithSaved(o, r, real, mode, access); err != nil {
				return w, err
			}
			if w.NewFolder {
				if err := e.checkFolder(w.Folder.HostPath, w.Folder.Exposes(), o.AllowSensitive); err != nil {
					return nil, err
				}
				e.Distrust(writableBy(w.Folder))
			}
			return w, nil
		}
	}
	folder := share.Attachment{HostPath: real, VM: w.Name, Mode: mode, Access: access, GuestDst: dst, Tag: share.Token(real), Protect: o.Protect}
	if mode == share.Git {
		if folder, err = e.newGitFolder(w, o, real); err != nil {
			return nil, err
		}
		dst = folder.GuestDst
	}
	if err := e.checkShare(folder.HostPath, dst, folder.Exposes(), o.AllowSensitive); err != nil {
		return nil, err
	}
	for _, a := range w.Store.Config.VMAttachments(w.Name) {
		if share.Recorded(a).GuestDst == dst && a.HostPath != folder.HostPath {
			return nil, ui.Refused("%s in VM %s is the place of another folder already: %s", dst, w.Name, ui.Clean(a.HostPath)).
				Hint(ui.Remark("choose another place: --guest-dst PATH"))
		}
	}
	if typed != real && mode != share.Git {
		folder.Typed = typed
	}
	e.Distrust(writableBy(&folder))
	w = w.with(func(t *Target) { t.Folder, t.NewFolder, t.OpenAt = &folder, true, dst })
	if mode == share.Git {
		return w.OpenedAt(filepath.Join(dst, strings.TrimPrefix(real, folder.HostPath))), nil
	}
	return w, session.UnwrapSingle(errors.Join(share.Check(folder), share.CheckProtect(folder, share.RecordedAll(w.Store.Config)), w.checkRoom(folder)))
}

// SavedFor is the record of a folder on the VM or, if it has none, of its
// nearest parent there: a subfolder of an attached folder belongs to it.
func (w *Target) SavedFor(real string) (config.Attachment, bool) {
	for dir := real; ; dir = filepath.Dir(dir) {
		if r, ok := w.Store.Config.FindAttachment(dir, w.Name); ok {
			return *r, true
		}
		if dir == filepath.Dir(dir) {
			return config.Attachment{}, false
		}
	}
}

// nested says whether the folder, which lies in the saved folder r, is to be
// attached for itself: attach was told to have it there in another way.
func (o FolderOptions) nested(r config.Attachment, real string, mode share.Mode, access, dst string) (bool, error) {
	a := share.Recorded(r)
	if !o.Attach || a.HostPath == real || a.State == share.Detaching {
		return a.State == share.Detaching && a.HostPath != real, nil
	}
	if o.Access == string(share.ReadOnly) && a.Access == string(share.ReadWrite) && a.Mode != share.Git {
		return false, ui.Refused("%s lies in %s, which VM %s can write: it would not be read-only there", ui.Clean(real), ui.Clean(a.HostPath), a.VM).
			Hint(ui.CmdFor("to have all of it read-only", "aivm detach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM), ui.CmdFor("then", "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM+" --access ro"))
	}
	if o.Protect && !a.Protect {
		return true, nil // and refused: see share.CheckProtect
	}
	return o.Mode != "" && mode != a.Mode || o.Access != "" && access != a.Access || o.GuestDst != "" && dst != filepath.Join(a.GuestDst, strings.TrimPrefix(real, a.HostPath)), nil
}

// WithSaved is w with the saved folder r, in which real lies, as the folder of the
// verb. What the store says wins; another wish is refused.
func (w *Target) WithSaved(o FolderOptions, r config.Attachment, real string, mode share.Mode, access string) (*Target, error) {
	saved, err := share.ParseMode(r.Mode)
	if err != nil {
		return w, ui.Refused("the saved mode %q of %s is not known", r.Mode, r.HostPath).Hint(ui.Cmd("aivm config path"))
	}
	a := share.Recorded(r)
	a.HostPath = filepath.Clean(a.HostPath)
	if a.State == share.Detaching {
		// It is on its way out: what is asked for now is a new attachment.
		if o.Mode != "" {
			a.Mode = mode
		}
		if o.Access != "" {
			a.Access = access
		}
		if o.GuestDst != "" {
			a.GuestDst = filepath.Clean(o.GuestDst)
		}
	}
	switch {
	case o.Mode != "" && a.Mode != mode:
		return w, changeRefused("mode", r, string(saved), string(mode))
	case o.Access != "" && a.Access != access:
		return w, changeRefused("access", r, r.Access, access)
	case o.GuestDst != "" && filepath.Clean(o.GuestDst) != filepath.Join(a.GuestDst, strings.TrimPrefix(real, a.HostPath)):
		return w, changeRefused("guest_dst", r, a.GuestDst, o.GuestDst)
	case o.Protect && !a.Protect && a.State != share.Detaching:
		return w, changeRefused("protect", r, yesNo(a.Protect), yesNo(true))
	case a.State == share.Linked && !o.Attach:
		return w, ui.Refused("folder %s is not shared any more: a symbolic link was on its way, which the VM may have put there", ui.Clean(a.HostPath)).
			Hint(ui.CmdFor("if it is the folder you mean", "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM))
	}
	newTyped := a.Mode != share.Git && a.Typed == "" && real == a.HostPath && w.typed != real
	if newTyped {
		a.Typed = w.typed
	}
	if a.State == share.Detaching {
		a.Protect = o.Protect
	}
	newFolder := a.State != share.Attached
	a.State = share.Attached
	if err := share.Check(a); err != nil && a.Mode != share.Git {
		return w, err
	}
	rel, err := filepath.Rel(a.HostPath, real)
	if err != nil {
		return w, err
	}
	return w.with(func(t *Target) {
		t.Folder, t.OpenAt = &a, filepath.Join(a.GuestDst, rel)
		t.NewFolder, t.NewTyped, t.Reviewed = newFolder, t.NewTyped || newTyped, o.Reviewed
	}), nil
}

// LinkedAway is the innermost record of a path that was attached as a folder
// and is, or leads through, a symbolic link now.
func FindLinked(c *config.Config, vm, typed, real string) (in config.Attachment, found bool) {
	for _, r := range c.Attachments {
		p := filepath.Clean(r.HostPath)
		if (vm == "" || r.VMName == vm) && Within(typed, p) && !Within(real, p) && (!found || len(p) > len(filepath.Clean(in.HostPath))) {
			in, found = r, true
		}
	}
	return in, found
}

// LinkedError refuses a folder with a symbolic link on its way: what the link leads to was never agreed to, and the
// link may be the guest's work. It stays refused when the link is gone, until a
// person attaches the folder again.
//
// A link that lies in the folder says nothing about the folder, which stays
// attached: else its guest could have it taken away by planting one.
type LinkedError struct {
	// Attachment is the folder that has to be kept away; nil where the link says
	// nothing about it, or that is recorded already.
	Attachment *share.Attachment
	Err        error
}

// Error says what Err says.
func (e *LinkedError) Error() string { return e.Err.Error() }

// Unwrap returns the refusal.
func (e *LinkedError) Unwrap() error { return e.Err }

func linkedError(r config.Attachment, typed, real string) error {
	a := share.Recorded(r)
	if is, err := filepath.EvalSymlinks(r.HostPath); err == nil && is == filepath.Clean(r.HostPath) {
		return ui.Refused("%s leads out of folder %s by a symbolic link, which VM %s may have put there, to %s", ui.Clean(typed), ui.Clean(r.HostPath), r.VMName, ui.Clean(real)).
			Hint(ui.CmdFor("to share what it leads to", "aivm attach "+shellescape.Quote(real)+" --vm "+r.VMName))
	}
	out := &LinkedError{}
	if a.State == share.Attached {
		out.Attachment = &a
	}
	q := shellescape.Quote(r.HostPath) + " --vm " + r.VMName
	out.Err = ui.Refused("a part of %s is a symbolic link now and leads to %s: it was attached to VM %s as a folder of its own", ui.Clean(r.HostPath), ui.Clean(real), r.VMName).
		Hint(ui.CmdFor("to share what it leads to", "aivm detach "+q), ui.CmdFor("then", "aivm attach "+q))
	return out
}

// Within reports whether p is dir or lies below it.
func Within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// mayAttach refuses, before anybody is asked for a VM, what cannot be attached
// to any. Where a clone goes in the guest hangs on the VM.
func (e Finder) checkAttach(mode share.Mode, access, folder, dst string, allow []string) error {
	if mode != share.Git {
		return e.checkShare(folder, dst, access == string(share.ReadWrite), allow)
	}
	repo, err := gitsync.Find(folder)
	if err != nil {
		return err
	}
	return e.checkFolder(repo.Top, false, allow)
}

// mayShare refuses folders and places in the guest that make no good share.
func (e Finder) checkShare(folder, dst string, writable bool, allow []string) error {
	if err := e.checkFolder(folder, writable, allow); err != nil {
		return err
	}
	return share.CheckGuestDst(dst)
}

// ownDirs are aivm's own directories, never shared with a guest, and the store,
// wherever --config says it is: who can write it decides what is shared next.
func (e Finder) ownDirs() []string {
	return []string{e.StorePath, filepath.Dir(e.SSH.ConfigDir), e.SSH.StateDir, e.SSH.ConfigDir, e.Cache.Dir, session.DefaultBaseDir, "/var/lib/aivm", "/var/cache/aivm"}
}

// changeRefused says that an attachment is changed only on purpose, and how.
func changeRefused(what string, a config.Attachment, saved, asked string) error {
	flag := "--" + strings.ReplaceAll(what, "_", "-") + " " + shellescape.Quote(asked)
	if what == "protect" {
		flag = "--protect"
	}
	folder := shellescape.Quote(a.HostPath) + " --vm " + a.VMName
	return ui.Refused("Attachment %s mismatch: %s is attached to %s with %s, not %s", what, ui.Clean(a.HostPath), a.VMName, saved, asked).
		Hint(ui.CmdFor("as it is", "aivm code "+folder), ui.CmdFor("to change it", "aivm detach "+folder), ui.CmdFor("then", "aivm attach "+folder+" "+flag))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Clone is a folder in mode git, and what is wanted of its clone.
type Clone struct {
	Repo   gitsync.Repo
	Strict bool // what keeps commits from moving is an error and not a remark
	Fresh  bool // the remote is not, or was not, in the repository's configuration
	// AnyHead says that the branch checked out here does not matter.
	AnyHead bool
	Push    bool
	Fetch   bool
	Limits  gitsync.Limits
	Wip     bool // the uncommitted state goes along
}

// newGitFolder is the attachment of a folder that is to be attached in mode
// git: the whole repository it lies in.
func (e Finder) newGitFolder(w *Target, o FolderOptions, real string) (share.Attachment, error) {
	repo, err := gitsync.Find(real)
	if err != nil {
		return share.Attachment{}, err
	}
	dst := gitsync.DefaultDst(repo.Top, e.Home, w.Record.VM.User)
	if o.GuestDst != "" {
		dst = filepath.Clean(o.GuestDst)
	}
	return share.Attachment{HostPath: repo.Top, VM: w.Name, Mode: share.Git, Access: string(share.ReadWrite), GuestDst: dst, Tag: share.Token(repo.Top)}, nil
}

// gitAccess refuses an access that says nothing in mode git.
func gitAccess(folder string) error {
	return ui.Refused("--access ro makes no sense with --mode git: the guest has a clone of its own, and writes nothing of %s", ui.Clean(folder)).
		Hint(ui.CmdFor("leave it out", "aivm attach "+shellescape.Quote(folder)+" --mode git"),
			ui.CmdFor("or share the files themselves, to be read", "aivm attach "+shellescape.Quote(folder)+" --mode shared-root --access ro"))
}
