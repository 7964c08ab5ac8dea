package target

import (
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
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

// Target is the state a verb asks for, as far as it is known before looking at
// the host: names and folders, no addresses.
type Target struct {
	Store     *config.Store
	Name      string
	Record    config.VM
	Network   config.Network
	Wished    config.NetworkSpec // as the config has it
	NewVM     bool               // no record in the store yet
	NewNet    bool
	AutoName  bool // nobody chose the name: take the next if it is taken
	renamed   int  // how often that happened
	Active    bool // make it active_vm when it is recorded
	SetActive bool // even if another one is

	Folder    *share.Attachment // nil: no folder
	NewFolder bool
	NewTyped  bool             // the folder is reached by a link that is not recorded yet
	typed     string           // the folder as typed, absolute
	OpenAt    string           // where the editor or shell goes, below folder.GuestDst
	Left      map[string]error // saved folders this run goes on without, and why
	Linked    []string         // of these, the ones with a link on the way that is new
	Reviewed  bool             // what this machine's tools run of the folder was looked at by the person
	Seen      *hostexec.List   // what was written down of it in this run
	Git       *Clone           // set if folder is in mode git

	Settings *Settings // nil: none are brought
	Browser  bool      // code-server has to be here
	Editor   *editor.Found

	Boot  bool // has to run
	Guest bool // has to answer over SSH
	// NoSudo: what this user may not read stays unknown.
	NoSudo bool
	Wish   host.Size
	Image  string    // --image, "" = the record's
	Again  bool      // get the image although it is there
	First  plan.Plan // of a dry run: what comes before, with --snapshot

	Patience time.Duration // how long the guest may take to let us in at a look; 0: DialLimit
	// unmoved: a VM that was taken over does not have aivm's device for folders.
	Unmoved bool
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
	w := &Target{Store: store}
	res, err := store.Resolve(folder, flag)
	var amb *config.AmbiguousError
	switch {
	case err == nil:
		w.Name = res.VM
	case errors.Is(err, config.ErrNoVM) && create:
		return w, e.FirstVM(w)
	case errors.As(err, &amb) && e.InTTY:
		i, err := e.UI.Choose(ctx, "Which VM?", amb.Candidates)
		if err != nil {
			return nil, err
		}
		w.Name = amb.Candidates[i]
	default:
		return nil, err
	}
	return w, e.JoinRecord(w)
}

// JoinRecord joins a record with its network.
func (e Finder) JoinRecord(w *Target) error {
	vm, ok := w.Store.Config.FindVM(w.Name)
	if !ok {
		return ui.Refused("VM not found in config store: %s", w.Name).Hint(ui.Cmd("aivm list"), ui.Cmd("aivm vm create "+w.Name))
	}
	n, err := w.Store.Config.NetworkOf(vm)
	if err != nil {
		return err
	}
	w.Record, w.Network, w.Wished = *vm, *n, n.Network
	w.Wish = host.Size{CPUs: vm.VM.CPUs, RAMMB: vm.VM.RAMMB, DiskGB: vm.VM.DiskGB}
	return nil
}

// FirstVM is the VM that is made when there is none.
func (e Finder) FirstVM(w *Target) error {
	if !e.InTTY && !e.Approval.Yes && !e.DryRun {
		return ui.NeedsApproval("No managed VM found for this folder. Re-run with --yes to create one automatically").
			Hint(ui.Cmd(ui.AddFlag(e.Rerun, "--yes")), ui.CmdFor("to see all of it first", ui.AddFlag(e.Rerun, "--dry-run")))
	}
	w.AutoName = true
	if err := e.NewVM(w, w.Store.Config.Defaults.VM.Name); err != nil {
		return err
	}
	return e.FreeName(w)
}

// NewVM fills in a VM that has no record yet.
func (e Finder) NewVM(w *Target, name string) error {
	if err := config.ValidateVMName(name); err != nil {
		return err
	}
	c := &w.Store.Config
	w.Name, w.NewVM = name, true
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
	w.Wished = w.Network.Network
	w.Record = c.NewVM(name, w.Network.Name)
	w.Wish = host.Size{CPUs: w.Record.VM.CPUs, RAMMB: w.Record.VM.RAMMB, DiskGB: w.Record.VM.DiskGB}
	return nil
}

// Rename takes the next default name, when the one before is somebody else's.
func (w *Target) Rename() {
	base := w.Store.Config.Defaults.VM.Name
	for {
		w.renamed++
		name := base + "-" + strconv.Itoa(w.renamed+1)
		if _, ok := w.Store.Config.FindVM(name); !ok {
			w.Name, w.Record.Name, w.Record.VM.Name = name, name, name
			if w.Folder != nil {
				w.Folder.VM = name
			}
			return
		}
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
func (e Finder) Ours(ctx context.Context, name string) (*Target, *virt.Domain, error) {
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
	return w, d, e.checkOurs(w, d)
}

// Strays is what the VM's device shows although no attachment asks for it.
func Strays(hf share.HostFacts, atts []share.Attachment) []share.Reached {
	var out []share.Reached
	unwanted := hf.Strays(atts)
	for _, r := range hf.Reached() {
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
	return w.Wished == config.DefaultConfig().Defaults.Network
}
