package share

import (
	"errors"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// GuestError turns the result of a guest script that did not exit with status 0 into an
// error: a FolderError for each folder it names, joined. out is its stdout, stderr its
// stderr.
func GuestError(exit int, out, stderr []byte, atts []Attachment) error {
	if exit == 0 {
		return nil
	}
	tail := strings.TrimSpace(string(stderr[max(0, len(stderr)-500):]))
	var errs []error
	for line := range strings.SplitSeq(string(out[:min(len(out), maxProbe)]), "\n") {
		rest, ok := strings.CutPrefix(line, "aivm-share-error ")
		if !ok || len(errs) > len(atts)+8 {
			continue
		}
		reason, rest, _ := strings.Cut(rest, " ")
		token, where, _ := strings.Cut(rest, " ")
		affected := affectedFolders(atts, token, where)
		for _, of := range affected {
			err := explain(reason, where, tail, of)
			if by := usedBy(out, token); reason == "busy" && len(by) > 0 {
				err = ui.Refused("%q in the VM is in use by %s", where, strings.Join(by, ", "))
			}
			errs = append(errs, &FolderError{of.HostPath, err})
		}
		if len(affected) == 0 {
			errs = append(errs, explain(reason, where, tail, Attachment{}))
		}
	}
	if len(errs) == 0 {
		return ui.Failed("the script that mounts the folders in the VM exited with status %d: %q", exit, tail)
	}
	return errors.Join(errs...)
}

// affectedFolders returns the folders an error is about: the one of the token, or, for
// the token "-", all whose guest path is or lies below the path.
func affectedFolders(atts []Attachment, token, where string) []Attachment {
	var out []Attachment
	for _, a := range atts {
		if Token(a.HostPath) == token || token == "-" && (a.GuestDst == where || below(a.GuestDst, where)) {
			out = append(out, a)
		}
	}
	return out
}

// explain returns the message for one reason the script printed; tail is the end of its
// stderr.
func explain(reason, where, tail string, a Attachment) error {
	elsewhere := ui.Remark("attach the folder at another guest path: --guest-dst PATH")
	restart := ui.CmdFor("restart the VM", "aivm vm restart "+quote(a.VM))
	switch reason {
	case "foreign":
		return ui.Refused("something else is mounted on %q in the VM", where).Hint(elsewhere)
	case "link":
		return ui.Refused("%q in the VM is a symbolic link", where).Hint(elsewhere)
	case "file":
		return ui.Refused("%q in the VM is a file", where).Hint(elsewhere)
	case "full":
		return ui.Refused("%q in the VM is not empty, and folder %s would hide its content", where, a.HostPath).Hint(elsewhere)
	case "inside":
		return ui.Refused("%q does not exist and would have to be created inside another shared folder, which aivm does not do", where).Hint(elsewhere)
	case "busy":
		return ui.Failed("%q in the VM is in use and cannot be mounted again: %q", where, tail).
			Hint(ui.CmdFor("end the programs that use it, or "+restart.Text, restart.Command))
	case "device":
		return ui.Failed("the VM cannot mount its virtiofs device %s: %q", FSTag, tail)
	case "own":
		return ui.Failed("the device of folder %s does not appear in the VM", a.HostPath).Hint(restart)
	case "token":
		return ui.Failed("folder %s does not appear in the VM", a.HostPath).Hint(restart)
	}
	return ui.Failed("mounting folder %s in the VM failed (%q at %q): %q", a.HostPath, reason, where, tail)
}
