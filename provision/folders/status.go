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

// StatusFacts is what status knows about a VM's folders: the records, the host's
// mounts for the VM, and the mounts the guest reports.
type StatusFacts struct {
	atts    []share.Attachment
	host    plan.Known[share.HostFacts]
	guest   plan.Known[share.GuestFacts]
	hungErr error // accessing a folder in the guest hangs
	off     bool  // the VM is known not to run
}

// ObserveStatus reads the facts about all folders of the VM, in the guest too if it
// answers.
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

// Check reports which folders are mounted as they should be.
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
		c.State, c.Detail = host.Unknown, fmt.Sprintf("this machine shares %s; the VM could not be asked whether it has mounted it", c.Detail)
	default:
		c.State, c.Detail = host.Skipped, fmt.Sprintf("this machine shares %s; the VM does not run", c.Detail)
	}
	return c
}

// problem says what is wrong with one folder, "" if nothing is, and whether attaching
// it again fixes that.
func (s StatusFacts) problem(a share.Attachment) (why string, attach bool) {
	if s.host.Err != nil {
		return "", false
	}
	switch a.State {
	case share.Detaching:
		return fmt.Sprintf("folder %s is being detached: VM %s keeps access to the files it has open until it stops", a.HostPath, a.VM), false
	case share.Linked:
		return fmt.Sprintf("folder %s is not mounted: its path went through a symbolic link", a.HostPath), true
	}
	if err := s.host.Value.Folders[a.HostPath].Err; err != nil {
		return err.Error(), false
	}
	if a.Mode == share.Git {
		switch gitState(a) {
		case "missing":
			return fmt.Sprintf("folder %s is not a git repository any more", a.HostPath), false
		case "detached":
			return fmt.Sprintf("the repository %s has no remote for its clone in the VM", a.HostPath), true
		}
		return "", false
	}
	if !a.Mode.Mounts() {
		return fmt.Sprintf("folder %s has mode %s, which this aivm does not support", a.HostPath, a.Mode), false
	}
	if !s.host.Value.Mounted(a) && s.off && a.Protect {
		return "", false // the next start of the VM mounts it (waitsForStart)
	}
	if !s.host.Value.Mounted(a) {
		return fmt.Sprintf("folder %s is not mounted for the VM on this machine", a.HostPath), true
	}
	if s.guest.Err == nil {
		if err := share.Verify(s.guest.Value, s.host.Value, a); err != nil {
			return err.Error(), true
		}
	}
	return "", false
}

// Strays names the folders that are mounted for the VM without being attached: a run
// was killed, or could not unmount the folder.
func (s StatusFacts) Strays(w *target.Target) []host.Check {
	if s.host.Err != nil {
		return nil // Check reports it
	}
	var out []host.Check
	for _, r := range target.StaleMounts(s.host.Value, s.atts) {
		how := map[bool]string{true: "read", false: "read and write"}[r.RO]
		c := host.NewCheck("stray:"+r.Token, "Mounted but not attached", host.Bad,
			"VM %s can %s %s, which is not attached: an interrupted run mounted it, or one that is still running; attach it or unmount it", w.Name, how, r.Path)
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

// Writable returns the host folders that the guest can write, and a sentence about
// them. It reads the host's mounts for the VM and not the records: guest root can
// write whatever is mounted.
func (s StatusFacts) Writable() (paths []string, sentence string) {
	paths, sentence = []string{}, "It can write no folder of this machine."
	if s.host.Err != nil {
		sentence = fmt.Sprintf("It is not known which folders of this machine it can write: %v.", s.host.Err)
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

// ListedFolder is one attachment that `aivm list` prints. State is what the host
// knows: "ok" means mounted on the host for the VM, whether or not the guest has
// mounted it (status asks the guest); "detaching" means mounted for the VM and being
// detached, or not attached at all; "detached" means not mounted.
type ListedFolder struct {
	HostPath string `json:"host_path"`
	VM       string `json:"vm"`
	Mode     string `json:"mode"`
	Access   string `json:"access"`
	GuestDst string `json:"guest_dst"`
	State    string `json:"state"`
	Protect  bool   `json:"protect,omitempty"`
}

// List returns the attachments with their state by the host's mount table, and the
// folders that are mounted for a VM without being attached: the guest can access
// those too.
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

// access returns the mode of a mounted folder as the config writes it.
func access(r share.ExportedFolder) string {
	if r.RO {
		return string(share.ReadOnly)
	}
	return string(share.ReadWrite)
}

// gitState returns the state of a folder in git mode: "ok" if its repository has the
// remote of the clone, "detached" if not, "missing" if it is not a repository.
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

// leads finds the host paths that lead into folders a guest can write, by folder.
func (e Part) leads(atts []share.Attachment) map[string]share.Leads {
	var folders []string
	for _, a := range atts {
		if a.Exposes() && a.State == share.Attached {
			folders = append(folders, a.HostPath)
		}
	}
	return share.FindAllLeads(folders, e.Person())
}
