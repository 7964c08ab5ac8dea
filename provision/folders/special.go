package folders

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// A SpecialFile is a device node, or a setuid or setgid file, in a folder that a VM
// can write.
type SpecialFile struct {
	Folder string `json:"folder"`
	Path   string `json:"path"`
	What   string `json:"what"`
	Owner  uint32 `json:"owner"` // uid on this machine
}

// findSpecial finds the special files of an attached folder that appeared after
// since. The string says why the search is incomplete, "" if it is complete.
func findSpecial(ctx context.Context, a share.Attachment, since time.Time) ([]SpecialFile, string, error) {
	found, err := hostexec.FindSpecial(ctx, a.HostPath, since)
	if err != nil {
		return nil, "", err
	}
	var out []SpecialFile
	for _, f := range found.Files {
		out = append(out, SpecialFile{Folder: a.HostPath, Path: strings.ToValidUTF8(f.Path, "?"), What: f.What, Owner: f.Owner})
	}
	return out, found.Cut, nil
}

// specialNames lists special files for a message.
func specialNames(fs []SpecialFile) string {
	var names []string
	for _, f := range fs {
		names = append(names, fmt.Sprintf("%s (%s, of uid %d)", f.Path, f.What, f.Owner))
	}
	return ui.Some(names, namesShown)
}

// specialSearch returns a command that lists all special files of a folder.
func specialSearch(folder string) string {
	return `sudo find ` + shellescape.Quote(folder) + ` -xdev \( -type b -o -type c -o -type f -perm /6000 \) -ls`
}

// SpecialCheck names the special files in folders the VM can write, and reports
// whether its virtiofsd can create device nodes.
func (e Part) SpecialCheck(ctx context.Context, w *target.Target, f *loop.Facts, s StatusFacts) (host.Check, []SpecialFile) {
	c := host.NewCheck("special", "Devices and setuid files", host.Skipped, "VM %s can write no folder", w.Name)
	var all []SpecialFile
	var notes []string
	searched, unknown := 0, false
	for _, a := range s.atts {
		if !a.Exposes() {
			continue
		}
		found, cut, err := findSpecial(ctx, a, e.State().AttachedAt(a))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // the check of the folders reports it
		case err != nil:
			unknown = true
			notes = append(notes, err.Error())
			continue
		}
		searched++
		all = append(all, found...)
		if len(found) > 0 {
			notes = append(notes, fmt.Sprintf("in %s, since it was attached: %s", a.HostPath, specialNames(found)))
			c.Fix = append(c.Fix, specialSearch(a.HostPath))
		}
		if cut != "" {
			unknown = true
			notes = append(notes, fmt.Sprintf("not all of %s was searched: %s", a.HostPath, ui.Clean(cut)))
			if len(found) == 0 {
				c.Fix = append(c.Fix, specialSearch(a.HostPath))
			}
		}
	}
	risk := ""
	if searched > 0 && f.Running() {
		risk = e.deviceNodeRisk(w, f.Domain.Domain.Value.ID)
	}
	if risk != "" {
		notes = append(notes, risk)
	}
	switch {
	case len(all) > 0:
		c.State = host.Bad
	case unknown || risk != "":
		c.State = host.Unknown
	case searched > 0:
		c.State, c.Detail = host.OK, "no device node, setuid or setgid file appeared in the folders since they were attached"
	}
	if len(notes) > 0 {
		c.Detail = strings.Join(notes, "; ")
	}
	return c, all
}

// deviceNodeRisk says why the guest's root may be able to create device nodes in the
// folders of a running VM; "" if it cannot. id is libvirt's id of the domain.
func (e Part) deviceNodeRisk(w *target.Target, id int) string {
	g, err := root.ReadDeviceGuard(e.Key(w.Name))
	if err == nil {
		err = g.Holds(id)
	} else if !errors.Is(err, fs.ErrNotExist) {
		err = &root.UnseenError{Why: err}
	}
	return describeDeviceRisk(w.Name, err)
}

// describeDeviceRisk words the error of reading or checking the device guard; "" for
// nil.
func describeDeviceRisk(vm string, err error) string {
	const unknown = "cannot tell whether the guest's root can create device nodes in them: "
	switch {
	case err == nil:
		return ""
	case errors.Is(err, fs.ErrNotExist) && !errors.As(err, new(*root.UnseenError)):
		return unknown + "the VM was started without aivm's hook; the next start prevents it: aivm vm restart " + vm
	case errors.As(err, new(*root.UnseenError)):
		return unknown + err.Error() + "; the next start prevents it: aivm vm restart " + vm
	}
	return "the guest's root can create device nodes in them, which other users of this machine could use: " + err.Error()
}

// SearchDetached warns, after a folder was detached, about special files that
// appeared in it since it was attached: later runs do not search it any more.
func (e Part) SearchDetached(ctx context.Context, a share.Attachment, since time.Time) []SpecialFile {
	found, cut, err := findSpecial(ctx, a, since)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		cut = err.Error()
	}
	folder := ui.Clean(a.HostPath)
	if len(found) > 0 {
		e.UI.Warn("in %s, since it was attached to VM %s: %s", folder, a.VM, specialNames(found))
	}
	if cut != "" {
		e.UI.Warn("not all of %s was searched for device nodes and setuid files: %s", folder, ui.Clean(cut))
	}
	if len(found) > 0 || cut != "" {
		e.UI.Say("to see all of them: %s", specialSearch(a.HostPath))
	}
	return found
}
