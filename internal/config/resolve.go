package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// Resolution is the VM a command acts on, and the reason it was chosen.
type Resolution struct {
	VM  string
	Why string // "flag", "folder", "active", "only"
}

// ErrNoVM is wrapped by errors of Resolve if the store has no VM.
var ErrNoVM = errors.New("no VM definitions found in config store")

// AmbiguousError reports that several VMs match and none is preferred: an interactive run prompts,
// a script passes --vm. If Folder is set, the candidates are the VMs the folder is attached to;
// otherwise they are all VMs.
type AmbiguousError struct {
	Candidates []string
	Folder     bool
}

func (e *AmbiguousError) Error() string {
	if e.Folder {
		return "host folder is attached to multiple VMs: " + strings.Join(e.Candidates, ", ")
	}
	return fmt.Sprintf("VM selection is ambiguous (%d configured VMs: %s)", len(e.Candidates), strings.Join(e.Candidates, ", "))
}

// UnknownVMError reports a VM name that no record has. Source is where the name came from: "flag",
// "folder" (an attachment) or "active" (active_vm).
type UnknownVMError struct {
	Name   string
	Source string
	Known  []string
}

func (e *UnknownVMError) Error() string {
	switch e.Source {
	case "folder":
		return fmt.Sprintf("VM not found in config store: %s (the folder is attached to it)", e.Name)
	case "active":
		return fmt.Sprintf("VM not found in config store: %s (named by active_vm)", e.Name)
	}
	return "VM not found in config store: " + e.Name
}

// Similar returns the known name that is most similar, "" if none is.
func (e *UnknownVMError) Similar() string { return nearest(e.Name, e.Known) }

// AttachmentsOf returns the attachments of the folder or, if it has none, of its nearest attached
// parent: a subfolder of an attached project belongs to that project. folder is absolute and
// contains no symbolic links.
func (c *Config) AttachmentsOf(folder string) []Attachment {
	if folder == "" {
		return nil
	}
	for dir := filepath.Clean(folder); ; dir = filepath.Dir(dir) {
		var found []Attachment
		for _, a := range c.Attachments {
			if filepath.Clean(a.HostPath) == dir {
				found = append(found, a)
			}
		}
		if len(found) > 0 || dir == filepath.Dir(dir) {
			return found
		}
	}
}

// AttachedAs returns the attachments of a folder that may no longer exist, of the VM vm or, if that
// is "", of all VMs. It compares the recorded path with typed, then with resolved (links
// followed), then the path that was typed when the folder was attached with typed; the first
// comparison with a match decides.
func (c *Config) AttachedAs(typed, resolved, vm string) []Attachment {
	var found []Attachment
	for _, as := range []func(Attachment) bool{
		func(a Attachment) bool { return filepath.Clean(a.HostPath) == typed },
		func(a Attachment) bool { return filepath.Clean(a.HostPath) == resolved },
		func(a Attachment) bool { return a.TypedPath != "" && filepath.Clean(a.TypedPath) == typed },
	} {
		for _, a := range c.Attachments {
			if as(a) && (vm == "" || a.VMName == vm) {
				found = append(found, a)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// Resolve chooses the VM a command acts on: the flag, else the VM the folder is attached to (if
// there are several, active_vm if it is one of them), else active_vm, else the only VM. It never
// changes active_vm. A name that no record has is an error; Resolve does not fall back to another
// VM.
//
// Errors wrap ErrNoVM, *AmbiguousError or *UnknownVMError.
func (c *Config) Resolve(folder, vmFlag string) (Resolution, error) {
	return c.resolve(folder, vmFlag, "")
}

// Resolve calls Config.Resolve and adds the store's path to the message of ErrNoVM.
func (s *Store) Resolve(folder, vmFlag string) (Resolution, error) {
	return s.Config.resolve(folder, vmFlag, s.Path)
}

func (c *Config) resolve(folder, vmFlag, path string) (Resolution, error) {
	if vmFlag != "" {
		if _, ok := c.FindVM(vmFlag); !ok {
			return Resolution{}, c.unknown(vmFlag, "flag")
		}
		return Resolution{VM: vmFlag, Why: "flag"}, nil
	}
	var known, gone []string
	for _, a := range c.AttachmentsOf(folder) {
		if _, ok := c.FindVM(a.VMName); ok {
			known = append(known, a.VMName)
		} else {
			gone = append(gone, a.VMName)
		}
	}
	slices.Sort(known)
	known = slices.Compact(known)
	switch {
	case len(known) == 1:
		return Resolution{VM: known[0], Why: "folder"}, nil
	case len(known) > 1 && slices.Contains(known, c.ActiveVM):
		return Resolution{VM: c.ActiveVM, Why: "active"}, nil
	case len(known) > 1:
		return Resolution{}, ui.Refused("%w", &AmbiguousError{Candidates: known, Folder: true}).Hint(ui.Remark("re-run with --vm NAME"))
	case len(c.VMs) == 0:
		if path != "" {
			return Resolution{}, noVM(fmt.Errorf("%w: %s", ErrNoVM, path))
		}
		return Resolution{}, noVM(ErrNoVM)
	case len(gone) > 0:
		return Resolution{}, c.unknown(gone[0], "folder")
	}
	if c.ActiveVM != "" {
		if _, ok := c.FindVM(c.ActiveVM); !ok {
			return Resolution{}, c.unknown(c.ActiveVM, "active")
		}
		return Resolution{VM: c.ActiveVM, Why: "active"}, nil
	}
	if len(c.VMs) == 1 {
		return Resolution{VM: c.VMs[0].Name, Why: "only"}, nil
	}
	names := c.VMNames()
	slices.Sort(names)
	return Resolution{}, ui.Refused("%w", &AmbiguousError{Candidates: names}).Hint(ui.Remark("re-run with --vm NAME"))
}

func noVM(err error) error {
	return ui.Refused("%w", err).Hint(ui.Cmd("aivm config init"), ui.Cmd("aivm vm create"))
}

func (c *Config) unknown(name, source string) error {
	known := c.VMNames()
	slices.Sort(known)
	e := ui.Refused("%w", &UnknownVMError{Name: name, Source: source, Known: known})
	switch {
	case source != "flag":
		e.Hint(ui.Remark("re-run with --vm NAME"), ui.Cmd("aivm config edit"))
	case len(known) > 0:
		if near := nearest(name, known); near != "" {
			e.Hint(ui.Remark("did you mean --vm " + near + "?"))
		}
		e.Hint(ui.Cmd("aivm vm list"))
	case strictName.MatchString(name) && len(name) <= maxName:
		e.Hint(ui.Cmd("aivm vm create " + name))
	default:
		e.Hint(ui.Cmd("aivm vm create"))
	}
	return e
}
