package share

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// A ProtectionFacts is what is known of the protection of a folder. Err says why it does
// not hold; Paths are then what is to be protected now.
type ProtectionFacts struct {
	Err   error
	Paths []string
}

// WithProtection adds to the facts how it stands with the protection of a folder.
func (f HostFacts) WithProtection(token string, g ProtectionFacts) HostFacts {
	out := map[string]ProtectionFacts{token: g}
	for t, old := range f.protection {
		if t != token {
			out[t] = old
		}
	}
	f.protection = out
	return f
}

// isProtected reports whether what is to be protected of a is. What was not looked
// at is not.
func (f HostFacts) isProtected(a Attachment) bool {
	if !a.Protect {
		return true
	}
	g, ok := f.protection[Token(a.HostPath)]
	return ok && g.Err == nil
}

// ProtectionError says why the protection of a does not hold, nil if it does.
func (f HostFacts) ProtectionError(a Attachment) error { return f.protection[Token(a.HostPath)].Err }

// Protection reads, without any rights, whether the protection of a holds.
func (f HostFacts) CheckProtection(vmKey string, a Attachment) error {
	token := Token(a.HostPath)
	l := f.Tokens[token]
	if len(l) != 1 {
		return fmt.Errorf("the folder is not shared on this machine")
	}
	p, err := root.ReadProtection(vmKey, token)
	if err != nil {
		return fmt.Errorf("nothing is known of its protection: %w", err)
	}
	return p.Holds(a.HostPath, l[0])
}

// Protected returns the paths of a folder to protect, given what this machine's
// tools run of it: files, and the directories of which all runs that
// is put there. What is a
// link or has several names cannot be protected by its path and is returned as
// unprotected; so is what exceeds the number of mounts there can be.
func Protected(l hostexec.List) (paths, unprotected []string) {
	for _, d := range l.Dirs {
		if !slices.ContainsFunc(paths, func(p string) bool { return below(d, p) }) {
			paths = append(paths, d)
		}
	}
	whole := paths
	for _, f := range l.Files {
		switch {
		case slices.ContainsFunc(whole, func(d string) bool { return below(f.Path, d) }):
			if f.Type != "file" || f.Links > 1 {
				unprotected = append(unprotected, f.Path)
			}
		case f.Type != "file" || f.Links > 1:
			unprotected = append(unprotected, f.Path)
		default:
			paths = append(paths, f.Path)
		}
	}
	// The nearest come first, so that they are not what is left over.
	slices.SortStableFunc(paths, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") })
	mounts := map[string]bool{}
	for i, p := range paths {
		for d := p; d != "."; d = path.Dir(d) {
			mounts[d] = true
		}
		if len(mounts) > root.MaxProtected {
			unprotected = append(unprotected, paths[i:]...)
			paths = paths[:i:i]
			break
		}
	}
	return paths, unprotected
}

// CheckProtect refuses to protect where it would mean nothing, and what would
// have a protection mean nothing: the same files can be written through another
// folder of any VM.
func CheckProtect(a Attachment, others []Attachment) error {
	if !a.Protect {
		for _, o := range others {
			if o.Protect && o.writable() && FindBypass(o, []Attachment{a}) != nil {
				return ui.Refused("VM %s could write through %s what is protected of %s in VM %s", a.VM, a.HostPath, o.HostPath, o.VM).
					Hint(ui.CmdFor("to have it without", "aivm detach "+quote(o.HostPath)+" --vm "+quote(o.VM)), ui.CmdFor("only to read", "aivm attach "+quote(a.HostPath)+" --vm "+quote(a.VM)+" --access ro"))
			}
		}
		return nil
	}
	if o := FindBypass(a, others); o != nil && below(a.HostPath, o.HostPath) {
		return ui.Refused("%s lies in %s, which VM %s can write: nothing of it would be protected", a.HostPath, o.HostPath, o.VM).
			Hint(ui.CmdFor("protect that one instead", "aivm detach "+quote(o.HostPath)+" --vm "+quote(o.VM)), ui.CmdFor("then", "aivm attach "+quote(o.HostPath)+" --vm "+quote(o.VM)+" --protect"))
	}
	if o := FindBypass(a, others); o != nil {
		return ui.Refused("VM %s can write %s: not all of %s would be protected", o.VM, o.HostPath, a.HostPath).
			Hint(ui.Cmd("aivm detach " + quote(o.HostPath) + " --vm " + quote(o.VM)))
	}
	return nil
}

// FindBypass returns the folder through which a VM can write what is protected of a;
// nil if there is none.
func FindBypass(a Attachment, others []Attachment) *Attachment {
	for i, o := range others {
		if o.HostPath == a.HostPath && o.VM == a.VM || !o.writable() {
			continue
		}
		inside := o.HostPath == a.HostPath || below(o.HostPath, a.HostPath)
		if below(a.HostPath, o.HostPath) || inside && !o.Protect {
			return &others[i]
		}
	}
	return nil
}

// writable reports whether a VM can write the folder on this machine.
func (a Attachment) writable() bool { return a.Mode != Git && a.Access == string(ReadWrite) }
