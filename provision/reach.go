package provision

import (
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/share"
)

// vmFolders is what status knows of a VM's folders: what is recorded, what this
// machine's mounts show to the VM, and what the guest says it has mounted.
type vmFolders struct {
	atts  []share.Attachment
	host  plan.Known[share.HostFacts]
	guest plan.Known[share.GuestFacts]
	hangs error // whatever touches a folder in the guest hangs
	off   bool  // the VM is known not to run
}

// seeFolders looks at all folders of the VM, in the guest too if it answers.
func (e *Env) seeFolders(c config.Config, w *want, f *facts) vmFolders {
	s := vmFolders{atts: attachments(c, w.name), guest: plan.Unknown[share.GuestFacts](f.connErr)}
	s.host.Value, s.host.Err = e.shared(w.name, s.atts)
	s.off = f.domain.Domain.Err == nil && !f.running() && f.conn == nil
	if f.conn != nil {
		s.guest = plan.Known[share.GuestFacts]{Value: f.guest.share, Err: f.guest.shareErr}
		s.hangs = f.guest.shareErr
	}
	return s
}

// check says which folders are where they should be.
func (s vmFolders) check(w *want, f *facts) host.Check {
	c := check("folders", "VM shared folders", host.OK, "")
	var good, bad []string
	for _, a := range s.atts {
		why, fix := s.wrong(a)
		switch {
		case why == "":
			good = append(good, a.HostPath)
			continue
		case fix:
			c.Fix = append(c.Fix, "aivm attach "+shellQuote(a.HostPath)+" --vm "+w.name)
		}
		bad = append(bad, why)
	}
	c.Detail = strings.Join(good, ", ")
	switch {
	case s.host.Err != nil:
		c.State, c.Detail = host.Unknown, s.host.Err.Error()
	case len(s.atts) == 0:
		c.State, c.Detail = host.Skipped, "none is attached"
	case s.hangs != nil:
		c.State, c.Detail, c.Fix = host.Bad, s.hangs.Error(), hintsOf(s.hangs)
	case len(bad) > 0:
		c.State, c.Detail = host.Bad, strings.Join(bad, "; ")
	case s.guest.Err == nil:
	case f.running():
		c.State, c.Detail = host.Unknown, fmt.Sprintf("this machine shares %s; whether the VM has mounted it could not be asked", c.Detail)
	default:
		c.State, c.Detail = host.Skipped, fmt.Sprintf("this machine shares %s; the VM does not run", c.Detail)
	}
	return c
}

// wrong says what is wrong with one folder, and whether attaching it again is
// what helps.
func (s vmFolders) wrong(a share.Attachment) (why string, attach bool) {
	if s.host.Err != nil {
		return "", false
	}
	switch a.State {
	case share.Detaching:
		return fmt.Sprintf("folder %s is being detached: until VM %s stops it can read what it has open", a.HostPath, a.VM), false
	case share.Linked:
		return fmt.Sprintf("folder %s is not mounted: a symbolic link was on its way", a.HostPath), true
	}
	if err := s.host.Value.Folders[a.HostPath].Err; err != nil {
		return err.Error(), false
	}
	if a.Mode == share.Git {
		switch gitState(a) {
		case "missing":
			return fmt.Sprintf("folder %s is no git repository any more", a.HostPath), false
		case "detached":
			return fmt.Sprintf("the repository %s does not name its clone in the VM", a.HostPath), true
		}
		return "", false
	}
	if !a.Mode.Mounts() {
		return fmt.Sprintf("folder %s has mode %s, which is not there yet", a.HostPath, a.Mode), false
	}
	if !s.host.Value.Mounted(a) && s.off && a.Protect {
		return "", false // it is mounted when the VM starts: waitsForStart
	}
	if !s.host.Value.Mounted(a) {
		return fmt.Sprintf("folder %s is not shared on this machine", a.HostPath), true
	}
	if s.guest.Err == nil {
		if err := share.Verify(s.guest.Value, s.host.Value, a); err != nil {
			return err.Error(), true
		}
	}
	return "", false
}

// strays names what the VM can get at though it was not attached: a run was
// killed, or could not take the folder away again.
func (s vmFolders) strays(w *want) []host.Check {
	if s.host.Err != nil {
		return nil // the folders' check says so
	}
	var out []host.Check
	for _, r := range strays(s.host.Value, s.atts) {
		how := map[bool]string{true: "read", false: "read and write"}[r.RO]
		c := check("stray:"+r.Token, "Folder nobody attached", host.Bad,
			"VM %s can %s %s, left by a run that was stopped, or shared by one that is at work: attach it, or take it away", w.name, how, r.Path)
		if r.Found {
			fix := "aivm attach " + shellQuote(r.Path) + " --vm " + w.name
			if r.RO {
				fix += " --access ro"
			}
			c.Fix = append(c.Fix, fix)
		}
		c.Fix = append(c.Fix, "sudo umount "+shellQuote(r.Point))
		out = append(out, c)
	}
	return out
}

// wall says in a sentence what the guest can do outside itself. What it can
// write is what this machine's mounts show to its device, not what is recorded:
// guest root needs no more.
func (s vmFolders) wall(w *want, reaches string) Wall {
	out := Wall{Writable: []string{}}
	files := "It can write no folder of this machine."
	if s.host.Err != nil {
		files = fmt.Sprintf("Which folders of this machine it can write is not known: %v.", s.host.Err)
	}
	for _, r := range s.host.Value.Reached() {
		if !r.RO {
			out.Writable = append(out.Writable, r.Path)
		}
	}
	if len(out.Writable) > 0 {
		files = "It can write " + strings.Join(out.Writable, ", ") + "."
	}
	out.Sentence = fmt.Sprintf("VM %s %s. %s", w.name, reaches, files)
	return out
}
