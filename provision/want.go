package provision

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

// want is the state a verb asks for, as far as it is known before looking at
// the host: names and folders, no addresses.
type want struct {
	store     *config.Store
	name      string
	record    config.VM
	network   config.Network
	wished    config.NetworkSpec // as the config has it
	newVM     bool               // no record in the store yet
	newNet    bool
	autoName  bool // nobody chose the name: take the next if it is taken
	renamed   int  // how often that happened
	active    bool // make it active_vm when it is recorded
	setActive bool // even if another one is

	folder    *share.Attachment // nil: no folder
	newFolder bool
	newTyped  bool             // the folder is reached by a link that is not recorded yet
	typed     string           // the folder as typed, absolute
	openAt    string           // where the editor or shell goes, below folder.GuestDst
	left      map[string]error // saved folders this run goes on without, and why
	linked    []string         // of these, the ones with a link on the way that is new
	reviewed  bool             // what this machine's tools run of the folder was looked at by the person
	seen      *hostexec.List   // what was written down of it in this run
	git       *gitWant         // set if folder is in mode git

	settings *settings // nil: none are brought
	browser  bool      // code-server has to be here
	editor   *editor.Found

	boot  bool // has to run
	guest bool // has to answer over SSH
	// noSudo: what this user may not read stays unknown.
	noSudo bool
	wish   host.Size
	image  string    // --image, "" = the record's
	again  bool      // get the image although it is there
	first  plan.Plan // of a dry run: what comes before, with --snapshot

	patience time.Duration // how long the guest may take to let us in at a look; 0: dialLimit
	// unmoved: a VM that was taken over does not have aivm's device for folders.
	unmoved bool
}

// Folder checks a folder argument: absolute, existing, a directory that can be
// read. It returns the path as typed (absolute, links kept) and as it really is.
func Folder(arg string) (typed, real string, err error) {
	if strings.ContainsAny(arg, "\n\r\x00") {
		return "", "", ui.Refused("folder %q has a line break in its name", arg).Hint("rename it: neither ssh nor systemd can carry such a path")
	}
	typed, err = filepath.Abs(arg)
	if err != nil {
		return "", "", ui.Refused("the working directory is gone: %w", err).Hint("cd to a folder that exists and try again")
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
			Hint("open the folder it lies in: aivm code " + shellQuote(filepath.Dir(typed)))
	}
	f, err := os.Open(real)
	if err != nil {
		return "", "", ui.Refused("folder %s cannot be read: %w", ui.Clean(typed), err).Hint("ls -ld " + shellQuote(real))
	}
	_ = f.Close()
	return typed, real, nil
}

// noFolder says why a folder cannot be found, and makes one only where that is
// what is missing.
func noFolder(typed string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return ui.Refused("folder %s cannot be reached by you: %w", ui.Clean(typed), err).Hint("namei -l " + shellQuote(typed))
	}
	e := ui.Refused("host_src must be an existing directory: %s", ui.Clean(typed))
	if _, lerr := os.Lstat(typed); lerr == nil || !errors.Is(err, fs.ErrNotExist) {
		return e.Hint("see where the links lead: namei -l " + shellQuote(typed))
	}
	return e.Hint("mkdir -p " + shellQuote(typed))
}

// wantVM resolves the VM of a verb by the rules of the store: flag, folder,
// active_vm, the only one there is; otherwise a person is asked.
func (e *Env) wantVM(ctx context.Context, flag, folder string, create bool) (*want, error) {
	store, err := e.load()
	if err != nil {
		return nil, err
	}
	w := &want{store: store}
	res, err := store.Resolve(folder, flag)
	var amb *config.AmbiguousError
	switch {
	case err == nil:
		w.name = res.VM
	case errors.Is(err, config.ErrNoVM) && create:
		return w, e.wantFirst(w)
	case errors.As(err, &amb) && e.UI.InTTY:
		i, err := e.UI.Choose(ctx, "Which VM?", amb.Candidates)
		if err != nil {
			return nil, err
		}
		w.name = amb.Candidates[i]
	default:
		return nil, err
	}
	return w, e.wantKnown(w)
}

// wantKnown joins a record with its network.
func (e *Env) wantKnown(w *want) error {
	vm, ok := w.store.Config.FindVM(w.name)
	if !ok {
		return ui.Refused("VM not found in config store: %s", w.name).Hint("aivm list", "aivm vm create "+w.name)
	}
	n, err := w.store.Config.NetworkOf(vm)
	if err != nil {
		return err
	}
	w.record, w.network, w.wished = *vm, *n, n.Network
	w.wish = host.Size{CPUs: vm.VM.CPUs, RAMMB: vm.VM.RAMMB, DiskGB: vm.VM.DiskGB}
	return nil
}

// wantFirst is the VM that is made when there is none.
func (e *Env) wantFirst(w *want) error {
	if !e.UI.InTTY && !e.Approval.Yes && !e.DryRun {
		return ui.NeedsApproval("No managed VM found for this folder. Re-run with --yes to create one automatically").
			Hint(ui.AddFlag(e.Rerun, "--yes"), "to see all of it first: "+ui.AddFlag(e.Rerun, "--dry-run"))
	}
	w.autoName = true
	if err := e.wantNew(w, w.store.Config.Defaults.VM.Name); err != nil {
		return err
	}
	return e.freeName(w)
}

// wantNew fills in a VM that has no record yet.
func (e *Env) wantNew(w *want, name string) error {
	if err := config.ValidateVMName(name); err != nil {
		return err
	}
	c := &w.store.Config
	w.name, w.newVM = name, true
	w.active = len(c.VMs) == 0 && c.ActiveVM == ""
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
		w.network = *n
	} else {
		w.network, w.newNet = c.NewNetwork(netName), true
	}
	w.wished = w.network.Network
	w.record = c.NewVM(name, w.network.Name)
	w.wish = host.Size{CPUs: w.record.VM.CPUs, RAMMB: w.record.VM.RAMMB, DiskGB: w.record.VM.DiskGB}
	return nil
}

// rename takes the next default name, when the one before is somebody else's.
func (w *want) rename() {
	base := w.store.Config.Defaults.VM.Name
	for {
		w.renamed++
		name := base + "-" + strconv.Itoa(w.renamed+1)
		if _, ok := w.store.Config.FindVM(name); !ok {
			w.name, w.record.Name, w.record.VM.Name = name, name, name
			if w.folder != nil {
				w.folder.VM = name
			}
			return
		}
	}
}
