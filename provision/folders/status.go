package folders

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// Seen is what status knows of a VM's folders: what is recorded, what this
// machine's mounts show to the VM, and what the guest says it has mounted.
type StatusFacts struct {
	atts    []share.Attachment
	host    plan.Known[share.HostFacts]
	guest   plan.Known[share.GuestFacts]
	hungErr error // whatever touches a folder in the guest hangs
	off     bool  // the VM is known not to run
}

// See looks at all folders of the VM, in the guest too if it answers.
func (e Part) ObserveStatus(c config.Config, w *target.Target, f *loop.Facts) StatusFacts {
	s := StatusFacts{atts: share.RecordedFor(c, w.Name), guest: plan.Unknown[share.GuestFacts](f.ConnErr)}
	s.host.Value, s.host.Err = e.Shared(w.Name, s.atts)
	s.off = f.Domain.Domain.Err == nil && !f.Running() && f.Conn == nil
	if f.Conn != nil {
		s.guest = plan.Known[share.GuestFacts]{Value: f.Guest.Share, Err: f.Guest.ShareErr}
		s.hungErr = f.Guest.ShareErr
	}
	return s
}

// Check says which folders are where they should be.
func (s StatusFacts) Check(w *target.Target, f *loop.Facts) host.Check {
	c := host.NewCheck("folders", "VM shared folders", host.OK, "")
	var good, bad []string
	for _, a := range s.atts {
		why, fix := s.problem(a)
		switch {
		case why == "":
			good = append(good, a.HostPath)
			continue
		case fix:
			c.Fix = append(c.Fix, "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+w.Name)
		}
		bad = append(bad, why)
	}
	c.Detail = strings.Join(good, ", ")
	switch {
	case s.host.Err != nil:
		c.State, c.Detail = host.Unknown, s.host.Err.Error()
	case len(s.atts) == 0:
		c.State, c.Detail = host.Skipped, "none is attached"
	case s.hungErr != nil:
		c.State, c.Detail, c.Fix = host.Bad, s.hungErr.Error(), session.HintsOf(s.hungErr)
	case len(bad) > 0:
		c.State, c.Detail = host.Bad, strings.Join(bad, "; ")
	case s.guest.Err == nil:
	case f.Running():
		c.State, c.Detail = host.Unknown, fmt.Sprintf("this machine shares %s; whether the VM has mounted it could not be asked", c.Detail)
	default:
		c.State, c.Detail = host.Skipped, fmt.Sprintf("this machine shares %s; the VM does not run", c.Detail)
	}
	return c
}

// wrong says what is wrong with one folder, and whether attaching it again is
// what helps.
func (s StatusFacts) problem(a share.Attachment) (why string, attach bool) {
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

// Strays names what the VM can get at though it was not attached: a run was
// killed, or could not take the folder away again.
func (s StatusFacts) Strays(w *target.Target) []host.Check {
	if s.host.Err != nil {
		return nil // the folders' check says so
	}
	var out []host.Check
	for _, r := range target.StaleMounts(s.host.Value, s.atts) {
		how := map[bool]string{true: "read", false: "read and write"}[r.RO]
		c := host.NewCheck("stray:"+r.Token, "Folder nobody attached", host.Bad,
			"VM %s can %s %s, left by a run that was stopped, or shared by one that is at work: attach it, or take it away", w.Name, how, r.Path)
		if r.Found {
			fix := "aivm attach " + shellescape.Quote(r.Path) + " --vm " + w.Name
			if r.RO {
				fix += " --access ro"
			}
			c.Fix = append(c.Fix, fix)
		}
		c.Fix = append(c.Fix, "sudo umount "+shellescape.Quote(r.Point))
		out = append(out, c)
	}
	return out
}

// Writable returns the folders of this machine that the guest can write, and a
// sentence about them. What it can write is what this machine's mounts show to its device, not what is recorded:
// guest root needs no more.
func (s StatusFacts) Writable() (paths []string, sentence string) {
	paths, sentence = []string{}, "It can write no folder of this machine."
	if s.host.Err != nil {
		sentence = fmt.Sprintf("Which folders of this machine it can write is not known: %v.", s.host.Err)
	}
	for _, r := range s.host.Value.ExportedFolders() {
		if !r.RO {
			paths = append(paths, r.Path)
		}
	}
	if len(paths) > 0 {
		sentence = "It can write " + strings.Join(paths, ", ") + "."
	}
	return paths, sentence
}

// ListedFolder is one attachment of a Listing. State is what this machine knows:
// "ok" is mounted for the VM's device, whatever the guest makes of it (status
// asks the guest); "detaching" is mounted for it though no attachment says so.
type ListedFolder struct {
	HostPath string `json:"host_path"`
	VM       string `json:"vm"`
	Mode     string `json:"mode"`
	Access   string `json:"access"`
	GuestDst string `json:"guest_dst"`
	State    string `json:"state"`
	Protect  bool   `json:"protect,omitempty"`
}

// List lists the attachments with what the host's mount table says of them,
// and what is mounted for a VM without an attachment: its guest can get at that
// too.
func (e Part) List(c config.Config) []ListedFolder {
	out := []ListedFolder{}
	vms := map[string]bool{}
	for _, vm := range c.VMs {
		vms[vm.Name] = true
	}
	for _, a := range c.Attachments {
		vms[a.VMName] = true
	}
	for vm := range vms {
		atts := share.RecordedFor(c, vm)
		hf, err := e.Shared(vm, atts)
		for _, a := range atts {
			state := "unknown"
			if a.State == share.Detaching {
				state = "detaching"
			} else if _, serr := os.Lstat(a.HostPath); errors.Is(serr, os.ErrNotExist) {
				state = "missing"
			} else if a.Mode == share.Git {
				state = gitState(a)
			} else if err == nil {
				state = "detached"
				if hf.Mounted(a) {
					state = "ok"
				}
			}
			out = append(out, ListedFolder{HostPath: a.HostPath, VM: vm, Mode: string(a.Mode), Access: a.Access, GuestDst: a.GuestDst, State: state, Protect: a.Protect})
		}
		for _, r := range target.StaleMounts(hf, atts) {
			out = append(out, ListedFolder{HostPath: r.Path, VM: vm, Mode: string(share.SharedRoot), Access: access(r), State: "detaching"})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].HostPath < out[j].HostPath || out[i].HostPath == out[j].HostPath && out[i].VM < out[j].VM
	})
	return out
}

func access(r share.ExportedFolder) string {
	if r.RO {
		return string(share.ReadOnly)
	}
	return string(share.ReadWrite)
}

// gitState is what `list` says of a folder in mode git: whether the repository
// names the clone.
func gitState(a share.Attachment) string {
	repo, err := gitsync.Find(a.HostPath)
	if err != nil {
		return "missing"
	}
	if m, err := gitsync.FindRemote(repo, a.VM, a.GuestDst); err != nil || !m.Present {
		return "detached"
	}
	return "ok"
}

// leads are the places of this machine that lead into folders a guest can
// write, by folder.
func (e Part) leads(atts []share.Attachment) map[string]share.Leads {
	var folders []string
	for _, a := range atts {
		if a.Exposes() && a.State == share.Attached {
			folders = append(folders, a.HostPath)
		}
	}
	return share.FindAllLeads(folders, e.Person())
}
