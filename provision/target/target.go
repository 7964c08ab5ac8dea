package target

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

// Target is the state that a verb asks for, as far as the command line and the config tell:
// names and folders, no addresses. A Target is never changed: its methods return changed
// copies.
type Target struct {
	Store       *config.Store
	Name        string
	Record      config.VM
	Network     config.Network
	NetworkSpec config.NetworkSpec // the network's values in the config
	Libvirt     virt.URI           // the libvirt that has the VM
	NewVM       bool               // the config has no record of the VM yet
	NewNet      bool
	AutoName    bool // the name is the default one: if it is taken, use the next
	renamed     int  // how often the name was replaced
	Active      bool // make it active_vm when it is recorded, if there is none
	SetActive   bool // even if another one is

	Folder    *share.Attachment // nil: no folder
	NewFolder bool
	// NewProtect: the recorded folder is protected from now on (--protect).
	NewProtect bool
	NewTyped   bool   // the folder was typed with a symbolic link that is not recorded yet
	typed      string // the folder as typed, absolute
	OpenAt     string // guest path that the editor or shell opens, in Folder.GuestDst
	Reviewed   bool   // --reviewed: the user checked the folder's host-executed files
	Clone      *Clone // set if Folder is in mode git

	Settings *Settings // nil: none are copied
	Browser  bool      // the archive of code-server is needed
	Editor   *editor.Found
	NoEditor string // why there is no editor to open, and what to do about it

	Boot  bool // the VM must run
	Guest bool // connect to the guest over SSH, if the VM runs
	// NoSudo: facts that this user may not read stay unknown.
	NoSudo       bool
	Size         host.Size
	Image        string // --image; "": as recorded
	RefetchImage bool   // get the image although the cache has it

	LoginLimit time.Duration // how long the login may take in one observation; 0: DialLimit
}

// with returns a copy of w that fn has changed.
func (w *Target) with(fn func(*Target)) *Target {
	t := *w
	fn(&t)
	return &t
}

// Started returns w with the VM running and answering over SSH.
func (w *Target) Started() *Target {
	return w.with(func(t *Target) { t.Boot, t.Guest = true, true })
}

// WithGuest returns w with a connection to the guest, if its VM runs.
func (w *Target) WithGuest() *Target { return w.with(func(t *Target) { t.Guest = true }) }

// WithoutSudo returns w without the use of sudo: facts that this user may not read stay unknown.
func (w *Target) WithoutSudo() *Target { return w.with(func(t *Target) { t.NoSudo = true }) }

// WithoutFolders is WithGuest for facts in the guest that do not concern shared folders.
func (w *Target) WithoutFolders() *Target {
	return w.with(func(t *Target) { t.Store, t.Guest = nil, true })
}

// AlreadyRecorded returns w with its VM recorded in the config.
func (w *Target) AlreadyRecorded() *Target { return w.with(func(t *Target) { t.NewVM = false }) }

// OpenedAt returns w with the path in the guest that the editor or shell opens.
func (w *Target) OpenedAt(path string) *Target {
	return w.with(func(t *Target) { t.OpenAt = path })
}

// OpenedIn returns w with the editor to open; browser: it needs the archive of code-server.
func (w *Target) OpenedIn(found *editor.Found, browser bool) *Target {
	return w.with(func(t *Target) { t.Editor, t.Browser = found, browser })
}

// WithoutEditor returns w with the reason why no editor will be opened.
func (w *Target) WithoutEditor(why string) *Target {
	return w.with(func(t *Target) { t.NoEditor = why })
}

// WithClone returns w with its folder's clone.
func (w *Target) WithClone(c Clone) *Target { return w.with(func(t *Target) { t.Clone = &c }) }

// WithSettings returns w with the settings to copy into the guest.
func (w *Target) WithSettings(s Settings) *Target {
	return w.with(func(t *Target) { t.Settings = &s })
}

// FetchedAgain returns w with its image fetched although the cache has it.
func (w *Target) FetchedAgain() *Target { return w.with(func(t *Target) { t.RefetchImage = true }) }

// Sized returns w with these sizes for a VM that is created; 0 keeps a size as it is.
func (w *Target) Sized(s host.Size) *Target {
	return w.with(func(t *Target) {
		t.Size.CPUs, t.Size.RAMMB, t.Size.DiskGB = cmp.Or(s.CPUs, t.Size.CPUs), cmp.Or(s.RAMMB, t.Size.RAMMB), cmp.Or(s.DiskGB, t.Size.DiskGB)
	})
}

// AsActive returns w with a VM that becomes active_vm, even if another one is.
func (w *Target) AsActive() *Target {
	return w.with(func(t *Target) { t.Active, t.SetActive = true, true })
}

// ResolveFolder resolves a folder argument, which must be a directory that can be read. It
// returns the absolute path as typed, with symbolic links, and with links resolved; both are valid
// UTF-8 without line breaks.
func ResolveFolder(arg string) (typed, resolved string, err error) {
	if strings.ContainsAny(arg, "\n\r\x00") {
		return "", "", ui.Refused("folder %q has a line break in its name", arg).Hint(ui.Remark("rename it: neither ssh nor systemd accepts such a path"))
	}
	typed, err = filepath.Abs(arg)
	if err != nil {
		return "", "", ui.Refused("the working directory is gone: %w", err).Hint(ui.Remark("cd to a folder that exists and try again"))
	}
	if err := checkUTF8(typed); err != nil {
		return "", "", err
	}
	// filepath.Abs uses $PWD, which keeps the links in the path that the user typed.
	resolved, err = filepath.EvalSymlinks(typed)
	if err != nil {
		return "", "", noFolder(typed, err)
	}
	if err := checkUTF8(resolved); err != nil {
		return "", "", err
	}
	st, err := os.Stat(resolved)
	if err != nil {
		return "", "", ui.Refused("cannot read the properties of folder %s: %w", ui.Clean(typed), err)
	}
	if !st.IsDir() {
		return "", "", ui.Refused("host_src must be an existing directory: %s is a file", ui.Clean(typed)).
			Hint(ui.CmdFor("open the folder it lies in", "aivm code "+shellescape.Quote(filepath.Dir(typed))))
	}
	f, err := os.Open(resolved)
	if err != nil {
		return "", "", ui.Refused("folder %s cannot be read: %w", ui.Clean(typed), err).Hint(ui.Cmd("ls -ld " + shellescape.Quote(resolved)))
	}
	_ = f.Close()
	return typed, resolved, nil
}

// noFolder returns the error for a folder that cannot be found. Its hint is mkdir only if nothing
// exists at the path.
func noFolder(typed string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return ui.Refused("no permission to enter the path of folder %s: %w", ui.Clean(typed), err).Hint(ui.Cmd("namei -l " + shellescape.Quote(typed)))
	}
	e := ui.Refused("host_src must be an existing directory: %s", ui.Clean(typed))
	if _, lerr := os.Lstat(typed); lerr == nil || !errors.Is(err, fs.ErrNotExist) {
		return e.Hint(ui.CmdFor("to see where its links lead", "namei -l "+shellescape.Quote(typed)))
	}
	return e.Hint(ui.Cmd("mkdir -p " + shellescape.Quote(typed)))
}

// VM resolves the VM of a verb in this order: flag, folder, active_vm, the only VM in the config;
// otherwise the user is asked. create: a VM that does not exist may be created, with the name of
// flag, or the default one if there is none yet.
func (e Finder) VM(ctx context.Context, flag, folder string, create bool) (*Target, error) {
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	res, err := store.Resolve(folder, flag)
	name := res.VM
	var amb *config.AmbiguousError
	var unknown *config.UnknownVMError
	switch {
	case err == nil:
	case create && errors.As(err, &unknown) && unknown.Source == "flag" && config.ValidateVMName(flag) == nil:
		return e.namedVM(ctx, store, unknown, err)
	case errors.Is(err, config.ErrNoVM) && create:
		return e.firstVM(store)
	case errors.As(err, &amb) && e.InTTY:
		i, err := e.UI.Choose(ctx, "Which VM?", amb.Candidates)
		if err != nil {
			return nil, err
		}
		name = amb.Candidates[i]
	default:
		return nil, err
	}
	w, err := Recorded(store, name)
	if err == nil {
		e.UseLibvirt(w.Libvirt)
	}
	return w, err
}

// Recorded returns the Target for a VM in the config, with its network.
func Recorded(store *config.Store, name string) (*Target, error) {
	w := &Target{Store: store, Name: name}
	vm, ok := store.Config.FindVM(name)
	if !ok {
		return w, ui.Refused("VM not found in config store: %s", name).Hint(ui.Cmd("aivm list"), ui.Cmd("aivm vm create "+name))
	}
	n, err := store.Config.NetworkOf(vm)
	if err != nil {
		return w, err
	}
	if w.Libvirt, err = vm.VM.Libvirt(); err != nil {
		return w, err
	}
	w.Record, w.Network, w.NetworkSpec = *vm, *n, n.Network
	w.Size = host.Size{CPUs: vm.VM.CPUs, RAMMB: vm.VM.RAMMB, DiskGB: vm.VM.DiskGB}
	return w, nil
}

// firstVM returns the Target for the VM that is created if there is none.
func (e Finder) firstVM(store *config.Store) (*Target, error) {
	if !e.InTTY && !e.Approval.Yes && !e.DryRun {
		return nil, ui.NeedsApproval("No managed VM found for this folder. Re-run with --yes to create one automatically").
			Hint(ui.Cmd(ui.AddFlag(e.Rerun, "--yes")), ui.CmdFor("to see the complete plan first", ui.AddFlag(e.Rerun, "--dry-run")))
	}
	w, err := NewVM(store, store.Config.Defaults.VM.Name)
	if err != nil {
		return nil, err
	}
	e.UseLibvirt(w.Libvirt)
	return e.FreeName(w.with(func(t *Target) { t.AutoName = true }))
}

// namedVM returns the Target for the VM of --vm, which does not exist; err is the refusal of the name.
func (e Finder) namedVM(ctx context.Context, store *config.Store, unknown *config.UnknownVMError, err error) (*Target, error) {
	if foreign := e.ExplainUnknown(ctx, store, err); foreign != err {
		return nil, foreign
	}
	name, similar := unknown.Name, unknown.Similar()
	if !e.InTTY && !e.Approval.Yes && !e.DryRun {
		refusal := ui.NeedsApproval("VM not found in config store: %s. Re-run with --yes to create it", name)
		if similar != "" {
			refusal.Hint(ui.Remark("did you mean --vm " + similar + "?"))
		}
		return nil, refusal.Hint(ui.CmdFor("to create it", ui.AddFlag(e.Rerun, "--yes")), ui.CmdFor("to see the complete plan first", ui.AddFlag(e.Rerun, "--dry-run")))
	}
	w, err := NewVM(store, name)
	if err != nil {
		return nil, err
	}
	e.UseLibvirt(w.Libvirt)
	if w, err = e.FreeName(w); err != nil {
		return nil, err
	}
	if similar != "" {
		e.WarnOnce("VM " + name + " does not exist yet and is created; did you mean --vm " + similar + "?")
	}
	return w, nil
}

// NewVM returns the Target for a VM that is not in the config yet.
func NewVM(store *config.Store, name string) (*Target, error) {
	if err := config.ValidateVMName(name); err != nil {
		return nil, err
	}
	c := &store.Config
	w := &Target{Store: store, Name: name, NewVM: true}
	w.Active = len(c.VMs) == 0 && c.ActiveVM == ""
	netName := c.Defaults.Network.Name
	if len(c.Networks) > 0 {
		netName = c.Networks[0].Name
		for _, n := range c.Networks {
			if n.Name == c.Defaults.Network.Name {
				netName = n.Name
			}
		}
	}
	if n, ok := c.FindNetwork(netName); ok {
		w.Network = *n
	} else {
		w.Network, w.NewNet = c.NewNetwork(netName), true
	}
	w.NetworkSpec = w.Network.Network
	w.Record = c.NewVM(name, w.Network.Name)
	var err error
	if w.Libvirt, err = w.Record.VM.Libvirt(); err != nil {
		return nil, err
	}
	w.Size = host.Size{CPUs: w.Record.VM.CPUs, RAMMB: w.Record.VM.RAMMB, DiskGB: w.Record.VM.DiskGB}
	return w, nil
}

// Renamed returns w with the next default name, for a name that is taken by another owner.
func (w *Target) Renamed() *Target {
	base := w.Store.Config.Defaults.VM.Name
	for n := w.renamed + 1; ; n++ {
		name := base + "-" + strconv.Itoa(n+1)
		if _, ok := w.Store.Config.FindVM(name); ok {
			continue
		}
		return w.with(func(t *Target) {
			t.renamed = n
			t.Name, t.Record.Name, t.Record.VM.Name = name, name, name
			if w.Folder != nil {
				a := *w.Folder
				a.VM = name
				t.Folder = &a
			}
		})
	}
}

// Cwd returns the working directory, by which a verb without a name finds its VM; "" if it no
// longer exists.
func Cwd() string {
	d, err := os.Getwd()
	if err != nil {
		return ""
	}
	return d
}

// OwnVM resolves a VM and its domain, and refuses a domain of another owner. The domain is nil
// if libvirt has none.
func (e Finder) OwnVM(ctx context.Context, name string) (*Target, *virt.Domain, error) {
	w, err := e.VM(ctx, name, Cwd(), false)
	if err != nil {
		return nil, nil, e.ExplainUnknown(ctx, e.Store, err)
	}
	l, err := e.LibvirtWithHelp(ctx)
	if err != nil {
		return w, nil, err
	}
	d, err := l.Domain(ctx, w.Name)
	if errors.Is(err, virt.ErrNotFound) {
		return w, nil, nil
	}
	if err != nil {
		return w, nil, err
	}
	return w, d, CheckOwner(w, d, e.UID)
}

// StaleMounts returns the mounts in the VM's export root that belong to no attachment.
func StaleMounts(hf share.HostFacts, atts []share.Attachment) []share.ExportedFolder {
	var out []share.ExportedFolder
	unwanted := hf.Strays(atts)
	for _, r := range hf.ExportedFolders() {
		if slices.Contains(unwanted, r.Token) {
			out = append(out, r)
		}
	}
	return out
}

// StateLost returns the refusal of a VM of this user without host key and address in the state
// directory: it was created with another HOME or XDG_STATE_HOME, or its files were removed. aivm
// cannot log in to it.
func (e Finder) StateLost(w *Target) error {
	dir := e.SSH.VMDir(w.Name)
	err := ui.Refused("VM %q exists, but its host key and address, which aivm needs to log in, are not in %s", w.Name, dir).
		Hint(ui.Remark("if it was created with another HOME or XDG_STATE_HOME, use that"), ui.Remark("or restore "+shellescape.Quote(dir)+" from a backup"))
	if w.NewVM {
		err.Hint(ui.CmdFor("or create a VM with another name", "aivm vm create NAME"))
	}
	return err.Hint(ui.CmdFor("to delete the VM and its disk", "aivm vm delete "+w.Name))
}

// AutoNet reports whether the network's values are the built-in defaults, so that aivm may choose
// others if they conflict, instead of refusing.
func (w *Target) AutoNet() bool {
	return w.NetworkSpec == config.DefaultConfig().Defaults.Network
}
