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

// ProtectionFacts is the state of a folder's protection. Err is why it does not hold, nil
// if it does; if not nil, Paths are the paths to protect now.
type ProtectionFacts struct {
	Err   error
	Paths []string
}

// WithProtection returns the facts with the state of one folder's protection added.
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

// isProtected reports whether the protection of a holds, or a needs none. A protection
// that was not read does not hold.
func (f HostFacts) isProtected(a Attachment) bool {
	if !a.Protect {
		return true
	}
	g, ok := f.protection[Token(a.HostPath)]
	return ok && g.Err == nil
}

// ProtectionError returns why the protection of a does not hold; nil if it does.
func (f HostFacts) ProtectionError(a Attachment) error { return f.protection[Token(a.HostPath)].Err }

// CheckProtection reads, without any privileges, whether the protection of a holds; the
// error says why not.
func (f HostFacts) CheckProtection(vmKey string, a Attachment) error {
	token := Token(a.HostPath)
	l := f.Tokens[token]
	if len(l) != 1 {
		return fmt.Errorf("the folder is not mounted for the VM on this machine")
	}
	p, err := root.ReadProtection(vmKey, token)
	if err != nil {
		return fmt.Errorf("cannot read the state of its protection: %w", err)
	}
	return p.Holds(a.HostPath, l[0])
}

// Protected returns the paths of a folder to protect, given its host-executed files:
// single files, and directories in which every file would be run. A symbolic link or a
// file with several hard links cannot be protected by its path and is returned in
// unprotected; so are the paths beyond root.MaxProtected mounts.
func Protected(l hostexec.List) (paths, unprotected []string) {
	for _, d := range l.Dirs {
		if !slices.ContainsFunc(paths, func(p string) bool { return below(d, p) }) {
			paths = append(paths, d)
		}
	}
	dirs := paths
	for _, f := range l.Files {
		switch {
		case slices.ContainsFunc(dirs, func(d string) bool { return below(f.Path, d) }):
			if f.Type != "file" || f.Links > 1 {
				unprotected = append(unprotected, f.Path)
			}
		case f.Type != "file" || f.Links > 1:
			unprotected = append(unprotected, f.Path)
		default:
			paths = append(paths, f.Path)
		}
	}
	// Paths near the top come first: if there are too many, the deep ones are left out.
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

// CheckProtect refuses --protect for a folder whose files a VM can write through another
// folder, and refuses a folder through which a VM could write another one's protected
// files.
func CheckProtect(a Attachment, others []Attachment) error {
	if !a.Protect {
		for _, o := range others {
			if o.Protect && o.writable() && FindBypass(o, []Attachment{a}) != nil {
				err := ui.Refused("VM %s could write through %s the protected files of %s in VM %s", a.VM, a.HostPath, o.HostPath, o.VM).
					Hint(ui.CmdFor("detach the protected folder first", "aivm detach "+quote(o.HostPath)+" --vm "+quote(o.VM)))
				if a.VM != o.VM { // in one VM, a folder inside a writable one cannot be read-only
					err = err.Hint(ui.CmdFor("or attach this one read-only", "aivm attach "+quote(a.HostPath)+" --vm "+quote(a.VM)+" --access ro"))
				}
				return err
			}
		}
		return nil
	}
	if o := FindBypass(a, others); o != nil && below(a.HostPath, o.HostPath) {
		return ui.Refused("%s lies in %s, which VM %s can write: none of its files would be protected", a.HostPath, o.HostPath, o.VM).
			Hint(ui.CmdFor("to protect that one instead", "aivm attach "+quote(o.HostPath)+" --vm "+quote(o.VM)+" --protect"))
	}
	if o := FindBypass(a, others); o != nil {
		return ui.Refused("VM %s can write %s, so the files there would not be protected in %s", o.VM, o.HostPath, a.HostPath).
			Hint(ui.Cmd("aivm detach " + quote(o.HostPath) + " --vm " + quote(o.VM)))
	}
	return nil
}

// FindBypass returns the folder of others through which a VM can write the protected
// files of a; nil if there is none.
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

// writable reports whether a VM can write the folder's files on the host.
func (a Attachment) writable() bool { return a.Mode != Git && a.Access == string(ReadWrite) }
