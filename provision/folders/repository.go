package folders

import (
	"fmt"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// A folder can be a work tree whose repository lies elsewhere: a linked work tree, a
// submodule, a clone that borrows objects. Shared without the repository, git does not
// work in it in the VM.

// ObserveRepository reads what git needs from outside the verb's folder.
func ObserveRepository(w *target.Target, f *loop.Facts) {
	if w.Folder != nil && w.Folder.Mode.Mounts() && f.Share.Folders[w.Folder.HostPath].Err == nil {
		f.Outside = gitsync.FindOutside(w.Folder.HostPath)
	}
}

// A RepositoryOutside is a directory that git needs in a folder and that the VM does not have.
type RepositoryOutside struct {
	Folder string `json:"folder"`
	Kind   string `json:"kind"` // "worktree", "submodule", "gitdir", "parent" or "objects"
	Path   string `json:"path"`
	File   string `json:"file"` // what names it
	// Attach is the command that shares it; "" if there is none.
	Attach string `json:"attach,omitempty"`
	text   string
	clone  string // the command that attaches the folder in mode git instead; "" if there is none
}

// noteRepository warns about what git lacks in the verb's folder. That the folder is only a
// part of a work tree is reported when it is attached, and by status.
func (e Part) noteRepository(p *Planned, w *target.Target, f *loop.Facts) {
	for _, r := range e.RepositoriesOutside(w, f) {
		if gitsync.OutsideParent != gitsync.OutsideKind(r.Kind) || w.NewFolder {
			p.Warn(r.text + r.hints())
		}
	}
}

// RepositoriesOutside returns what git lacks in the verb's folder in the VM.
func (e Part) RepositoriesOutside(w *target.Target, f *loop.Facts) []RepositoryOutside {
	if w.Folder == nil || w.Store == nil {
		return nil
	}
	return e.repositoriesOutside(*w.Folder, f.Outside, share.RecordedAll(w.Store.Config))
}

// repositoriesOutside returns the needs of a folder that no folder attached to its VM has.
// The others are all attachments, of every VM.
func (e Part) repositoriesOutside(a share.Attachment, needs []gitsync.Need, others []share.Attachment) []RepositoryOutside {
	var out []RepositoryOutside
	written := ""
	for _, o := range others {
		if o.Exposes() && target.Within(a.HostPath, o.HostPath) {
			written = o.VM
		}
	}
	for _, n := range needs {
		if hasNeed(a, n, others) {
			continue
		}
		home := target.Within(e.Home, n.Top)
		if n.Kind == gitsync.OutsideParent && home {
			continue // a home kept in git, not a project of which the folder is a part
		}
		folder, path := ui.Clean(a.HostPath), ui.Clean(n.Path)
		r := RepositoryOutside{Folder: a.HostPath, Kind: string(n.Kind), Path: n.Path, File: n.File}
		switch n.Kind {
		case gitsync.OutsideWorktree:
			r.text = fmt.Sprintf("git will not work in %s in VM %s: it is a linked work tree, and its repository %s is not shared", folder, a.VM, ui.Clean(n.Top))
		case gitsync.OutsideSubmodule:
			r.text = fmt.Sprintf("git will not work in %s in VM %s: it is a submodule, and its git directory %s is not shared", folder, a.VM, path)
		case gitsync.OutsideParent:
			r.text = fmt.Sprintf("git will not work in %s in VM %s: it is a part of the repository %s, which is not shared", folder, a.VM, ui.Clean(n.Top))
		case gitsync.OutsideObjects:
			r.text = fmt.Sprintf("git will not find all objects of %s in VM %s: its repository borrows some from %s, which is not shared", folder, a.VM, path)
		default:
			r.text = fmt.Sprintf("git will not work in %s in VM %s: its git directory %s is not shared", folder, a.VM, path)
		}
		guest := n.File != "" && !n.Confirmed && written != ""
		if !guest {
			r.clone = cloneInstead(a)
		} else {
			// No hint at mode git: it would send the repository that the VM named to the VM.
			r.text += fmt.Sprintf(" (only %s says so, which VM %s can write)", ui.Clean(n.File), written)
		}
		// A command with escapes instead of control characters would not work.
		if !home && ui.Clean(n.Top) == n.Top && (filepath.IsAbs(n.Named) || a.GuestDst == a.HostPath) {
			r.Attach = "aivm attach " + shellescape.Quote(n.Top) + " --vm " + a.VM
			if n.Kind == gitsync.OutsideObjects || guest {
				r.Attach += " --access ro"
			}
		}
		out = append(out, r)
	}
	return out
}

// hasNeed reports whether a folder attached to a's VM has a needed directory where git in
// the VM looks for it.
func hasNeed(a share.Attachment, n gitsync.Need, others []share.Attachment) bool {
	named := n.Named
	if !filepath.IsAbs(named) {
		named = filepath.Join(a.GuestDst, named)
	}
	for _, o := range others {
		if o.VM != a.VM || !o.Mode.Mounts() || o.State != share.Attached {
			continue
		}
		for _, dst := range []string{o.GuestDst, o.Typed} {
			if dst != "" && target.Within(named, dst) && filepath.Join(o.HostPath, strings.TrimPrefix(named, dst)) == n.Path {
				return true
			}
		}
	}
	return false
}

// hints returns the end of a sentence, with the commands that help.
func (r RepositoryOutside) hints() string {
	out := ""
	if r.Attach != "" {
		out = "; to share it too: " + r.Attach
	}
	if r.clone != "" {
		out += "; for a clone in the VM instead: " + r.clone
	}
	return out
}

// cloneInstead returns the command that attaches a shared folder in mode git.
func cloneInstead(a share.Attachment) string {
	q := shellescape.Quote(a.HostPath) + " --vm " + a.VM
	return "aivm detach " + q + " && aivm attach " + q + " --mode git"
}

// RepositoryCheck names what git lacks in the VM's folders; ok is false if there is nothing.
func (e Part) RepositoryCheck(w *target.Target, s StatusFacts) (c host.Check, all []RepositoryOutside, ok bool) {
	c = host.NewCheck("repositories", "Git repositories of the folders", host.Bad, "")
	var notes []string
	for _, a := range s.atts {
		if !a.Mode.Mounts() || a.State != share.Attached || s.host.Err == nil && s.host.Value.Folders[a.HostPath].Err != nil {
			continue
		}
		for _, r := range e.repositoriesOutside(a, gitsync.FindOutside(a.HostPath), share.RecordedAll(w.Store.Config)) {
			notes, all = append(notes, r.text), append(all, r)
			for _, fix := range []string{r.Attach, r.clone} {
				if fix != "" {
					c.Fix = append(c.Fix, fix)
				}
			}
		}
	}
	c.Detail = strings.Join(notes, "; ")
	return c, all, len(notes) > 0
}
