package target

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

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
	Mode, Access   string // "": as recorded, else the default
	GuestDst       string
	AllowSensitive []string
	Image          string
	NoFolder       bool
	Protect        bool // --protect: host-executed files are read-only in the guest
	Reviewed       bool // --reviewed: record the checksums of host-executed files again
	Attach         bool // the verb is attach: it may attach a subfolder separately, and a refused folder again
}

// Folder resolves the VM and the attachment of a folder verb. create: a VM may be created if
// there is none.
func (e Finder) Folder(ctx context.Context, o FolderOptions, create bool) (*Target, error) {
	typed, resolved, err := ResolveFolder(o.Folder)
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
		return nil, gitAccess(resolved)
	}
	if mode == share.Git && o.Protect {
		return nil, protectClone(resolved)
	}
	if o.GuestDst != "" && (!filepath.IsAbs(o.GuestDst) || strings.ContainsAny(o.GuestDst, "\n\r\x00")) {
		return nil, ui.Usage("--guest-dst must be an absolute path in the guest, not %q", o.GuestDst).
			Hint(ui.Remark("for example: --guest-dst /home/agent/" + shellescape.Quote(filepath.Base(typed))))
	}
	if !utf8.ValidString(o.GuestDst) {
		return nil, ui.Usage("--guest-dst must be valid UTF-8, not %q", o.GuestDst)
	}
	dst := resolved
	if o.GuestDst != "" {
		dst = filepath.Clean(o.GuestDst)
	}
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	if r, ok := FindLinked(&store.Config, o.VM, typed, resolved); ok {
		return nil, linkedError(r, typed, resolved)
	}
	if len(store.Config.AttachmentsOf(resolved)) == 0 {
		// Check before asking the user for a VM.
		if err := e.checkAttach(mode, access, resolved, dst, o.AllowSensitive); err != nil {
			return nil, err
		}
	}
	w, err := e.VM(ctx, o.VM, resolved, create)
	if err != nil {
		return nil, offerCreation(e.ExplainUnknown(ctx, store, err))
	}
	if w, err = w.WithImage(o.Image); err != nil {
		return nil, err
	}
	w = w.with(func(t *Target) { t.typed = typed })
	if r, ok := w.SavedFor(resolved); ok {
		nested, err := o.nested(r, resolved, mode, access, dst)
		if err != nil {
			return nil, err
		}
		if !nested {
			if w, err = w.WithSaved(o, r, resolved, mode, access); err != nil {
				return w, err
			}
			if w.NewFolder {
				if err := e.checkFolder(w.Folder.HostPath, w.Folder.Exposes(), o.AllowSensitive); err != nil {
					return nil, err
				}
				e.Distrust(writableBy(w.Folder))
			}
			if w.NewProtect {
				return w, share.CheckProtect(*w.Folder, share.RecordedAll(w.Store.Config))
			}
			return w, nil
		}
	}
	folder := share.Attachment{HostPath: resolved, VM: w.Name, Mode: mode, Access: access, GuestDst: dst, Tag: share.Token(resolved), Protect: o.Protect}
	if mode == share.Git {
		if folder, err = e.newGitFolder(w, o, resolved); err != nil {
			return nil, err
		}
		dst = folder.GuestDst
	}
	if err := e.checkShare(folder.HostPath, dst, folder.Exposes(), o.AllowSensitive); err != nil {
		return nil, err
	}
	for _, a := range w.Store.Config.VMAttachments(w.Name) {
		if share.Recorded(a).GuestDst == dst && a.HostPath != folder.HostPath {
			return nil, ui.Refused("guest path %s in VM %s is already used by folder %s", dst, w.Name, ui.Clean(a.HostPath)).
				Hint(ui.Remark("choose another path with --guest-dst PATH"))
		}
	}
	if typed != resolved && mode != share.Git {
		folder.Typed = typed
	}
	e.Distrust(writableBy(&folder))
	w = w.with(func(t *Target) { t.Folder, t.NewFolder, t.OpenAt = &folder, true, dst })
	if mode == share.Git {
		return w.OpenedAt(filepath.Join(dst, strings.TrimPrefix(resolved, folder.HostPath))), nil
	}
	return w, session.UnwrapSingle(errors.Join(share.Check(folder), share.CheckProtect(folder, share.RecordedAll(w.Store.Config)), w.checkRoom(folder)))
}

// protectClone returns the refusal of --protect for a folder in mode git.
func protectClone(folder string) error {
	return ui.Refused("--protect makes no sense with --mode git: the guest has its own clone and cannot write %s", ui.Clean(folder)).
		Hint(ui.CmdFor("leave it out", "aivm attach "+shellescape.Quote(folder)+" --mode git"))
}

// offerCreation adds to the refusal of a VM name that does not exist the command that creates the VM.
func offerCreation(err error) error {
	var unknown *config.UnknownVMError
	var refusal *ui.Error
	if errors.As(err, &unknown) && unknown.Source == "flag" && len(unknown.Known) > 0 && config.ValidateVMName(unknown.Name) == nil && errors.As(err, &refusal) {
		refusal.Hint(ui.CmdFor("to create it", "aivm vm create "+unknown.Name))
	}
	return err
}

// SavedFor returns the record of a folder attached to the VM or, if there is none, of its
// nearest attached parent: a subfolder belongs to the attached folder it lies in.
func (w *Target) SavedFor(resolved string) (config.Attachment, bool) {
	for dir := resolved; ; dir = filepath.Dir(dir) {
		if r, ok := w.Store.Config.FindAttachment(dir, w.Name); ok {
			return *r, true
		}
		if dir == filepath.Dir(dir) {
			return config.Attachment{}, false
		}
	}
}

// nested reports whether the folder, which lies in the attached folder r, is to be attached
// separately, because attach was given a mode, access or guest path that differs from r's.
func (o FolderOptions) nested(r config.Attachment, resolved string, mode share.Mode, access, dst string) (bool, error) {
	a := share.Recorded(r)
	if !o.Attach || a.HostPath == resolved || a.State == share.Detaching {
		return a.State == share.Detaching && a.HostPath != resolved, nil
	}
	if o.Access == string(share.ReadOnly) && a.Access == string(share.ReadWrite) && a.Mode != share.Git {
		return false, ui.Refused("%s lies in %s, which VM %s can write, so it cannot be read-only there", ui.Clean(resolved), ui.Clean(a.HostPath), a.VM).
			Hint(ui.CmdFor("to make all of it read-only", "aivm detach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM), ui.CmdFor("then", "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM+" --access ro"))
	}
	if o.Protect && !a.Protect {
		return true, nil // share.CheckProtect refuses it
	}
	return o.Mode != "" && mode != a.Mode || o.Access != "" && access != a.Access || o.GuestDst != "" && dst != filepath.Join(a.GuestDst, strings.TrimPrefix(resolved, a.HostPath)), nil
}

// WithSaved returns w with the recorded folder r, in which real lies, as the verb's folder. Flags
// that differ from the record are refused.
func (w *Target) WithSaved(o FolderOptions, r config.Attachment, resolved string, mode share.Mode, access string) (*Target, error) {
	saved, err := share.ParseMode(r.Mode)
	if err != nil {
		return w, ui.Refused("unknown mode %q of folder %s in the config", r.Mode, r.HostPath).Hint(ui.Cmd("aivm config path"))
	}
	a := share.Recorded(r)
	a.HostPath = filepath.Clean(a.HostPath)
	if a.State == share.Detaching {
		// The folder is being detached: treat this as a new attachment.
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
		if mode == share.Git { // else the command to change it would end with this
			if _, err := gitsync.Find(a.HostPath); err != nil {
				return w, err
			}
		}
		return w, changeRefused("mode", r, string(saved), string(mode))
	case o.Access != "" && a.Access != access:
		return w, changeRefused("access", r, r.Access, access)
	case o.GuestDst != "" && filepath.Clean(o.GuestDst) != filepath.Join(a.GuestDst, strings.TrimPrefix(resolved, a.HostPath)):
		return w, changeRefused("guest_dst", r, a.GuestDst, o.GuestDst)
	case o.Protect && a.Mode == share.Git:
		return w, protectClone(a.HostPath)
	case o.Protect && !a.Protect && a.Access == string(share.ReadOnly):
		return w, ui.Refused("VM %s can only read %s, so there is nothing to protect", a.VM, ui.Clean(a.HostPath)).
			Hint(ui.Cmd("aivm code " + shellescape.Quote(a.HostPath) + " --vm " + a.VM))
	case o.Protect && !a.Protect && a.State == share.Attached && resolved != a.HostPath:
		return w, ui.Refused("%s lies in %s, which VM %s has without --protect", ui.Clean(resolved), ui.Clean(a.HostPath), a.VM).
			Hint(ui.CmdFor("to protect all of it", "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM+" --protect"))
	case a.State == share.Linked && !o.Attach:
		return w, ui.Refused("folder %s is no longer shared: its path contained a symbolic link, which the VM may have created", ui.Clean(a.HostPath)).
			Hint(ui.CmdFor("if it is the folder you mean, attach it again", "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+a.VM))
	}
	newTyped := a.Mode != share.Git && a.Typed == "" && resolved == a.HostPath && w.typed != resolved
	if newTyped {
		a.Typed = w.typed
	}
	newProtect := o.Protect && !a.Protect && a.State == share.Attached
	if a.State == share.Detaching || newProtect {
		a.Protect = o.Protect
	}
	newFolder := a.State != share.Attached
	a.State = share.Attached
	if err := share.Check(a); err != nil && a.Mode != share.Git {
		return w, err
	}
	rel, err := filepath.Rel(a.HostPath, resolved)
	if err != nil {
		return w, err
	}
	return w.with(func(t *Target) {
		t.Folder, t.OpenAt = &a, filepath.Join(a.GuestDst, rel)
		t.NewFolder, t.NewTyped, t.Reviewed = newFolder, t.NewTyped || newTyped, o.Reviewed
		t.NewProtect = newProtect
	}), nil
}

// FindLinked returns the record of the innermost attached folder on the path typed that now is,
// or leads through, a symbolic link.
func FindLinked(c *config.Config, vm, typed, resolved string) (rec config.Attachment, found bool) {
	for _, r := range c.Attachments {
		p := filepath.Clean(r.HostPath)
		if (vm == "" || r.VMName == vm) && Within(typed, p) && !Within(resolved, p) && (!found || len(p) > len(filepath.Clean(rec.HostPath))) {
			rec, found = r, true
		}
	}
	return rec, found
}

// LinkedError refuses a folder whose path contains a symbolic link: the user never consented to
// sharing the link's target, and the guest may have created the link. The folder stays refused
// after the link is removed, until the user attaches it again.
//
// A link inside an attached folder does not affect the folder, which stays attached: otherwise
// its guest could cause the detach by creating a link.
type LinkedError struct {
	// Attachment is the folder to record as linked; nil if the link is inside the folder, or
	// if that is recorded already.
	Attachment *share.Attachment
	Err        error
}

// Error returns the text of Err.
func (e *LinkedError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *LinkedError) Unwrap() error { return e.Err }

func linkedError(r config.Attachment, typed, resolved string) error {
	a := share.Recorded(r)
	if resolvedPath, err := filepath.EvalSymlinks(r.HostPath); err == nil && resolvedPath == filepath.Clean(r.HostPath) {
		return ui.Refused("%s leads out of folder %s through a symbolic link, which VM %s may have created, to %s", ui.Clean(typed), ui.Clean(r.HostPath), r.VMName, ui.Clean(resolved)).
			Hint(ui.CmdFor("to share the target of the link", "aivm attach "+shellescape.Quote(resolved)+" --vm "+r.VMName))
	}
	out := &LinkedError{}
	if a.State == share.Attached {
		out.Attachment = &a
	}
	q := shellescape.Quote(r.HostPath) + " --vm " + r.VMName
	out.Err = ui.Refused("the path of folder %s, attached to VM %[3]s, now contains a symbolic link and leads to %[2]s", ui.Clean(r.HostPath), ui.Clean(resolved), r.VMName).
		Hint(ui.CmdFor("to share the target of the link", "aivm detach "+q), ui.CmdFor("then", "aivm attach "+q))
	return out
}

// Within reports whether p is dir or lies below it.
func Within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// checkAttach refuses folders that cannot be attached to any VM, before the user is asked for
// one. The guest path of a clone depends on the VM and is checked later.
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

// checkShare refuses folders that must not be shared and guest paths that cannot be used.
func (e Finder) checkShare(folder, dst string, writable bool, allow []string) error {
	if err := e.checkFolder(folder, writable, allow); err != nil {
		return err
	}
	return share.CheckGuestDst(dst)
}

// OwnDirs returns aivm's own directories, which are never shared with a guest, and the config
// file, wherever --config places it: a guest that can write it decides what is shared next.
func (e Finder) OwnDirs() []string {
	own := []string{e.StorePath, filepath.Dir(e.SSH.ConfigDir), e.SSH.StateDir, e.SSH.ConfigDir, e.Cache.Dir, session.DefaultBaseDir, "/var/lib/aivm", "/var/cache/aivm"}
	if e.Cache.Dir != "" {
		own = append(own, filepath.Join(filepath.Dir(e.Cache.Dir), "templates"))
	}
	if runtime := e.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) {
		own = append(own, filepath.Join(runtime, "aivm")) // the runs
	}
	return own
}

// changeRefused returns the refusal of a flag that differs from the recorded attachment, with
// the commands to change it. what is the config key.
func changeRefused(what string, a config.Attachment, saved, asked string) error {
	flag := "--" + strings.ReplaceAll(what, "_", "-") + " " + shellescape.Quote(asked)
	folder := shellescape.Quote(a.HostPath) + " --vm " + a.VMName
	// aivm 0.3 has the same words, but knows no --protect.
	message := fmt.Sprintf("Attachment %s mismatch: %s is attached to %s with %s, not %s", what, ui.Clean(a.HostPath), a.VMName, saved, asked)
	if what == "protect" {
		flag = "--protect"
		how := "without"
		if asked == "no" {
			flag, how = "", "with"
		}
		message = fmt.Sprintf("%s is attached to %s %s --protect", ui.Clean(a.HostPath), a.VMName, how)
	}
	return ui.Refused("%s", message).
		Hint(ui.CmdFor("to use it as it is", "aivm code "+folder), ui.CmdFor("to change it", "aivm detach "+folder), ui.CmdFor("then", strings.TrimSpace("aivm attach "+folder+" "+flag)))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Clone holds the repository of a folder in mode git, and what to do with its clone.
type Clone struct {
	Repo   gitsync.Repo
	Strict bool // an error that prevents a push or fetch ends the run, instead of being a warning
	Fresh  bool // the remote is not, or was not, in the repository's configuration
	// AnyHead: the branch checked out on the host does not matter.
	AnyHead bool
	Push    bool
	Fetch   bool
	Limits  gitsync.Limits
	Wip     bool // push the uncommitted changes too
}

// newGitFolder returns the attachment for mode git: of the complete repository that the folder
// lies in.
func (e Finder) newGitFolder(w *Target, o FolderOptions, resolved string) (share.Attachment, error) {
	repo, err := gitsync.Find(resolved)
	if err != nil {
		return share.Attachment{}, err
	}
	dst := gitsync.DefaultDst(repo.Top, e.Home, w.Record.VM.User)
	if o.GuestDst != "" {
		dst = filepath.Clean(o.GuestDst)
	}
	return share.Attachment{HostPath: repo.Top, VM: w.Name, Mode: share.Git, Access: string(share.ReadWrite), GuestDst: dst, Tag: share.Token(repo.Top)}, nil
}

// gitAccess returns the refusal of --access ro in mode git.
func gitAccess(folder string) error {
	return ui.Refused("--access ro makes no sense with --mode git: the guest has its own clone and cannot write %s", ui.Clean(folder)).
		Hint(ui.CmdFor("leave it out", "aivm attach "+shellescape.Quote(folder)+" --mode git"),
			ui.CmdFor("or share the files themselves, read-only", "aivm attach "+shellescape.Quote(folder)+" --mode shared-root --access ro"))
}
