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

// Target is the state a verb asks for, as far as it is known before looking at
// the host: names and folders, no addresses. Nobody changes one: what the words
// leave open, or another run has changed, is a new Target.
type Target struct {
	Store       *config.Store
	Name        string
	Record      config.VM
	Network     config.Network
	NetworkSpec config.NetworkSpec // as the config has it
	Libvirt     virt.URI           // the one that has the VM
	NewVM       bool               // no record in the store yet
	NewNet      bool
	AutoName    bool // nobody chose the name: take the next if it is taken
	renamed     int  // how often that happened
	Active      bool // make it active_vm when it is recorded
	SetActive   bool // even if another one is

	Folder    *share.Attachment // nil: no folder
	NewFolder bool
	NewTyped  bool   // the folder is reached by a link that is not recorded yet
	typed     string // the folder as typed, absolute
	OpenAt    string // where the editor or shell goes, below folder.GuestDst
	Reviewed  bool   // what this machine's tools run of the folder was looked at by the person
	Clone     *Clone // set if folder is in mode git

	Settings *Settings // nil: none are brought
	Browser  bool      // code-server has to be here
	Editor   *editor.Found

	Boot  bool // has to run
	Guest bool // has to answer over SSH
	// NoSudo: what this user may not read stays unknown.
	NoSudo       bool
	Size         host.Size
	Image        string // --image, "" = the record's
	RefetchImage bool   // get the image although it is there

	LoginLimit time.Duration // how long the guest may take to let us in at a look; 0: DialLimit
}

// with returns a copy of w that fn has changed.
func (w *Target) with(fn func(*Target)) *Target {
	t := *w
	fn(&t)
	return &t
}

// Started is w with a VM that has to run, and to answer over SSH.
func (w *Target) Started() *Target {
	return w.with(func(t *Target) { t.Boot, t.Guest = true, true })
}

// Asked is w with a guest that is asked, if its VM runs.
func (w *Target) WithGuest() *Target { return w.with(func(t *Target) { t.Guest = true }) }

// NotByRoot is w looked at without sudo: what this user may not read stays unknown.
func (w *Target) WithoutSudo() *Target { return w.with(func(t *Target) { t.NoSudo = true }) }

// GuestAlone is Asked for what is in the guest and not shared with it.
func (w *Target) WithoutFolders() *Target {
	return w.with(func(t *Target) { t.Store, t.Guest = nil, true })
}

// Known is w with a VM that is recorded by now.
func (w *Target) AlreadyRecorded() *Target { return w.with(func(t *Target) { t.NewVM = false }) }

// OpenedAt is w, with the editor or shell going to a path in the guest.
func (w *Target) OpenedAt(path string) *Target {
	return w.with(func(t *Target) { t.OpenAt = path })
}

// OpenedIn is w with the editor that is going to be opened; browser says that
// code-server has to be here for it.
func (w *Target) OpenedIn(found *editor.Found, browser bool) *Target {
	return w.with(func(t *Target) { t.Editor, t.Browser = found, browser })
}

// WithClone is w with what is wanted of its folder's clone.
func (w *Target) WithClone(c Clone) *Target { return w.with(func(t *Target) { t.Clone = &c }) }

// WithSettings is w with the settings that are wanted in the guest.
func (w *Target) WithSettings(s Settings) *Target {
	return w.with(func(t *Target) { t.Settings = &s })
}

// FetchedAgain is w with its image fetched although it is there.
func (w *Target) FetchedAgain() *Target { return w.with(func(t *Target) { t.RefetchImage = true }) }

// Sized is w with these sizes for a VM that is made; 0 leaves one as it is.
func (w *Target) Sized(s host.Size) *Target {
	return w.with(func(t *Target) {
		t.Size.CPUs, t.Size.RAMMB, t.Size.DiskGB = cmp.Or(s.CPUs, t.Size.CPUs), cmp.Or(s.RAMMB, t.Size.RAMMB), cmp.Or(s.DiskGB, t.Size.DiskGB)
	})
}

// Default is w with a VM that becomes active_vm, even if another one is.
func (w *Target) AsActive() *Target {
	return w.with(func(t *Target) { t.Active, t.SetActive = true, true })
}

// ResolveFolder checks a folder argument: absolute, existing, a directory that can be
// read. It returns the path as typed (absolute, links kept) and as it really is.
func ResolveFolder(arg string) (typed, real string, err error) {
	if strings.ContainsAny(arg, "\n\r\x00") {
		return "", "", ui.Refused("folder %q has a line break in its name", arg).Hint(ui.Remark("rename it: neither ssh nor systemd can carry such a path"))
	}
	typed, err = filepath.Abs(arg)
	if err != nil {
		return "", "", ui.Refused("the working directory is gone: %w", err).Hint(ui.Remark("cd to a folder that exists and try again"))
	}
	// $PWD keeps the links a person walked through; Getwd honours it.
	real, err = filepath.EvalSymlinks(typed)
	if err != nil {
		return "", "", noFolder(typed, err)
	}
	st, err := os.Stat(real)
	if err != nil {
		return "", "", ui.Refused("folder %s cannot be looked at: %w", ui.Clean(typed), err)
	}
	if !st.IsDir() {
		return "", "", ui.Refused("host_src must be an existing directory: %s is a file", ui.Clean(typed)).
			Hint(ui.CmdFor("open the folder it lies in", "aivm code "+shellescape.Quote(filepath.Dir(typed))))
	}
	f, err := os.Open(real)
	if err != nil {
		return "", "", ui.Refused("folder %s cannot be read: %w", ui.Clean(typed), err).Hint(ui.Cmd("ls -ld " + shellescape.Quote(real)))
	}
	_ = f.Close()
	return typed, real, nil
}

// noFolder says why a folder cannot be found, and makes one only where that is
// what is missing.
func noFolder(typed string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return ui.Refused("folder %s cannot be reached by you: %w", ui.Clean(typed), err).Hint(ui.Cmd("namei -l " + shellescape.Quote(typed)))
	}
	e := ui.Refused("host_src must be an existing directory: %s", ui.Clean(typed))
	if _, lerr := os.Lstat(typed); lerr == nil || !errors.Is(err, fs.ErrNotExist) {
		return e.Hint(ui.CmdFor("see where the links lead", "namei -l "+shellescape.Quote(typed)))
	}
	return e.Hint(ui.Cmd("mkdir -p " + shellescape.Quote(typed)))
}

// VM resolves the VM of a verb by the rules of the store: flag, folder,
// active_vm, the only one there is; otherwise a person is asked.
func (e Finder) VM(ctx context.Context, flag, folder string, create bool) (*Target, error) {
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	res, err := store.Resolve(folder, flag)
	name := res.VM
	var amb *config.AmbiguousError
	switch {
	case err == nil:
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

// Recorded is a VM of the store, with its network.
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

// firstVM is the VM that is made when there is none.
func (e Finder) firstVM(store *config.Store) (*Target, error) {
	if !e.InTTY && !e.Approval.Yes && !e.DryRun {
		return nil, ui.NeedsApproval("No managed VM found for this folder. Re-run with --yes to create one automatically").
			Hint(ui.Cmd(ui.AddFlag(e.Rerun, "--yes")), ui.CmdFor("to see all of it first", ui.AddFlag(e.Rerun, "--dry-run")))
	}
	w, err := NewVM(store, store.Config.Defaults.VM.Name)
	if err != nil {
		return nil, err
	}
	e.UseLibvirt(w.Libvirt)
	return e.FreeName(w.with(func(t *Target) { t.AutoName = true }))
}

// NewVM is a VM that has no record yet.
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

// Renamed is w with the next default name, when the one before is somebody else's.
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

// Cwd is the folder a VM verb without a name looks up; "" when it is gone.
func Cwd() string {
	d, err := os.Getwd()
	if err != nil {
		return ""
	}
	return d
}

// Ours resolves a VM and its domain, refusing one that is not this person's.
// A nil domain means that libvirt has none.
func (e Finder) OwnVM(ctx context.Context, name string) (*Target, *virt.Domain, error) {
	w, err := e.VM(ctx, name, Cwd(), false)
	if err != nil {
		return nil, nil, err
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
	return w, d, e.checkOwner(w, d)
}

// Strays is what the VM's device shows although no attachment asks for it.
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

// StateLost refuses a VM of this person's whose host key and address are not
// here: made with another HOME or XDG_STATE_HOME, or its files are gone. There
// is no way into it from here.
func (e Finder) StateLost(w *Target) error {
	dir := e.SSH.VMDir(w.Name)
	err := ui.Refused("VM %q exists, but what is needed to get into it (host key, address) is not in %s", w.Name, dir).
		Hint(ui.Remark("was it made with another HOME or XDG_STATE_HOME? then use that"), ui.Remark("or bring "+shellescape.Quote(dir)+" back from a backup"))
	if w.NewVM {
		err.Hint(ui.CmdFor("or make one of another name", "aivm vm create NAME"))
	}
	return err.Hint(ui.CmdFor("to give it and its disk up", "aivm vm delete "+w.Name))
}

// AutoNet reports whether the network's values are the built-in defaults, so
// that a conflict may be avoided instead of refused.
func (w *Target) AutoNet() bool {
	return w.NetworkSpec == config.DefaultConfig().Defaults.Network
}
