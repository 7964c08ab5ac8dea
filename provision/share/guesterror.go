package share

import (
	"errors"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// GuestError explains a guest script that did not end with status 0: one joined
// FolderError for each folder it names. out is what it printed on stdout, stderr
// what it printed there.
func GuestError(exit int, out, stderr []byte, atts []Attachment) error {
	if exit == 0 {
		return nil
	}
	said := strings.TrimSpace(string(stderr[max(0, len(stderr)-500):]))
	var errs []error
	for line := range strings.SplitSeq(string(out[:min(len(out), maxProbe)]), "\n") {
		rest, ok := strings.CutPrefix(line, "aivm-share-error ")
		if !ok || len(errs) > len(atts)+8 {
			continue
		}
		reason, rest, _ := strings.Cut(rest, " ")
		token, where, _ := strings.Cut(rest, " ")
		mine := concerned(atts, token, where)
		for _, of := range mine {
			err := explain(reason, where, said, of)
			if by := usedBy(out, token); reason == "busy" && len(by) > 0 {
				err = ui.Refused("%q in the VM is in use there by %s", where, strings.Join(by, ", "))
			}
			errs = append(errs, &FolderError{of.HostPath, err})
		}
		if len(mine) == 0 {
			errs = append(errs, explain(reason, where, said, Attachment{}))
		}
	}
	if len(errs) == 0 {
		return ui.Failed("mounting the folders in the VM ended with status %d: %q", exit, said)
	}
	return errors.Join(errs...)
}

// concerned are the folders an error is about: the one of the token, or all
// whose way leads through the path.
func concerned(atts []Attachment, token, where string) []Attachment {
	var out []Attachment
	for _, a := range atts {
		if Token(a.HostPath) == token || token == "-" && (a.GuestDst == where || below(a.GuestDst, where)) {
			out = append(out, a)
		}
	}
	return out
}

func explain(reason, where, said string, a Attachment) error {
	elsewhere := ui.Remark("attach the folder at another place: --guest-dst PATH")
	restart := ui.CmdFor("restart the VM", "aivm vm restart "+quote(a.VM))
	switch reason {
	case "foreign":
		return ui.Refused("something else is mounted on %q in the VM", where).Hint(elsewhere)
	case "link":
		return ui.Refused("%q in the VM is a symbolic link", where).Hint(elsewhere)
	case "file":
		return ui.Refused("%q in the VM is a file", where).Hint(elsewhere)
	case "full":
		return ui.Refused("%q in the VM is not empty, and folder %s would hide what is there", where, a.HostPath).Hint(elsewhere)
	case "inside":
		return ui.Refused("%q would have to be made inside another shared folder, and attaching changes none", where).Hint(elsewhere)
	case "busy":
		return ui.Failed("%q in the VM is in use and cannot be mounted anew: %q", where, said).
			Hint(ui.CmdFor("close what works there, or "+restart.Text, restart.Command))
	case "device":
		return ui.Failed("the VM cannot mount its folder device %s: %q", FSTag, said)
	case "own":
		return ui.Failed("the device of folder %s does not appear in the VM", a.HostPath).Hint(restart)
	case "token":
		return ui.Failed("folder %s does not appear in the VM", a.HostPath).Hint(restart)
	}
	return ui.Failed("mounting folder %s in the VM failed (%q at %q): %q", a.HostPath, reason, where, said)
}
