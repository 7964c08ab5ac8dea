package legacy03

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aivm.dev/aivm/provision/loop"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// AdoptOptions are the flags of `vm adopt`.
type AdoptOptions struct {
	Name    string
	HostKey string // the host key's fingerprint that the user confirms, "SHA256:..."
}

// adoption is a VM made by aivm 0.3, as it was observed.
type adoption struct {
	w       *target.Target
	conn    *virt.Conn
	domain  *virt.Domain
	network *virt.Network
	ip      netip.Addr
	leased  bool // the VM has a DHCP lease for ip now
	key     ssh.PublicKey
	known   bool // key is from the user's known_hosts, or aivm has pinned it before
	ssh     sshEntry
}

// sshEntry has the facts that the VM's entry in the ssh configuration depends on.
type sshEntry struct {
	keys   plan.Known[[]sshcfg.Identity]
	config sshcfg.Facts
}

// scanLimit is how long a guest may take to present its host key: an emulated one on a busy
// machine needs many seconds for a key exchange.
const scanLimit = 45 * time.Second

// Adopt adopts a VM that aivm 0.3 made: once, on request, after showing its disk. It adds
// devices and marks to the domain one by one and never redefines it. The domain's mark comes
// last: until it is set, the VM is not aivm's, and the same command can be run again to
// finish.
func (e Part) Adopt(ctx context.Context, o AdoptOptions) (session.VMResult, error) {
	var a *adoption
	name := ""
	is := session.Adopted
	_, err := e.RunJob(ctx, loop.Job{
		VM: func() string { return name },
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			was := a
			if a, err = e.observeAdoption(ctx, o.Name); err != nil {
				return p, err
			}
			if name = a.w.Name; a.domain.Mark.By(e.UID) {
				if was == nil {
					is = session.AdoptedBefore
				}
				return p, nil // already adopted, perhaps by another run
			}
			if was != nil && a.domain.UUID == was.domain.UUID && a.ip == was.ip {
				a.key, a.known = was.key, was.known
			} else if err := e.confirmHostKey(ctx, a, o); err != nil {
				return p, err
			}
			a.ssh = e.observeEntry(ctx, a.w)
			if p, err = e.planAdoption(a); err == nil && !e.DryRun {
				err = config.CheckWritable(e.StorePath)
			}
			return p, err
		},
		Dry: func(p plan.Plan) error {
			if is == session.AdoptedBefore {
				return nil
			}
			return e.Dry("adopt", name, p)
		},
		Before: func() { e.showAdoption(a) },
		Then: func(ctx context.Context, changed, _ bool) error {
			if !changed {
				return nil
			}
			return e.Stopped(ctx, name)
		},
	})
	if err != nil {
		return session.VMResult{}, err
	}
	if is == session.Adopted && len(a.w.Store.Config.VMAttachments(name)) > 0 && a.domain.State != virt.Off && !e.JSON {
		e.UI.Say("its folders stay mounted as aivm 0.3 mounted them until it is stopped: aivm vm restart %s", name)
	}
	return e.VMResult(name, string(a.domain.State), is), nil
}

// observeAdoption reads the VM from the config, where 0.3 recorded it, and from libvirt.
func (e Part) observeAdoption(ctx context.Context, name string) (*adoption, error) {
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if errors.As(err, new(*config.UnknownVMError)) && name != "" {
		// A domain of the name may exist, so creating the VM is no way out.
		return nil, ui.Refused("%w", errors.Unwrap(err)).
			Hint(ui.Remark("only VMs that aivm 0.3 recorded in this config can be adopted"), ui.Cmd("aivm vm list"), ui.Cmd("aivm config path"))
	}
	if err != nil {
		return nil, err
	}
	a := &adoption{w: w}
	if a.conn, err = e.LibvirtWithHelp(ctx); err != nil {
		return nil, err
	}
	a.domain, err = a.conn.Domain(ctx, w.Name)
	switch d := a.domain; {
	case errors.Is(err, virt.ErrNotFound):
		return nil, ui.Refused("VM %q does not exist in libvirt, so it cannot be adopted", w.Name).
			Hint(ui.CmdFor("to create it", "aivm vm up "+w.Name), ui.CmdFor("to remove its record", "aivm vm delete "+w.Name))
	case err != nil:
		return nil, err
	case d.Mark.By(e.UID):
		return a, nil
	case d.Mark.Exists:
		return nil, ui.Refused("VM %q belongs to another user (uid %d)", w.Name, d.Mark.Owner)
	case d.Network == "" || d.MAC == "":
		return nil, ui.Refused("VM %q has no network device in a libvirt network, so aivm could not reach it", w.Name).
			Hint(ui.Cmd(e.Virsh("domiflist ") + w.Name))
	}
	a.network, err = a.conn.Network(ctx, a.domain.Network)
	if errors.Is(err, virt.ErrNotFound) {
		return nil, ui.Refused("network %q of VM %q does not exist", a.domain.Network, w.Name).
			Hint(ui.Cmd(e.Virsh("net-list --all")), ui.Cmd(e.Virsh("edit ")+w.Name))
	}
	if err != nil {
		return nil, err
	}
	if m := a.network.Mark; m.Exists && !m.By(e.UID) {
		return nil, ui.Refused("network %q of VM %q belongs to another user (uid %d)", a.network.Name, w.Name, m.Owner)
	}
	if a.network.Active {
		ip, err := a.conn.LeaseOf(ctx, a.network.Name, a.domain.MAC)
		if err != nil && !errors.Is(err, virt.ErrNotFound) { // not found: the network was just removed
			return nil, err
		}
		a.ip, a.leased = ip, ip.IsValid() && a.domain.State != virt.Off
	}
	if !a.leased {
		ip, _, err := network.Address(w.Network.Network, a.network, a.domain.MAC)
		if err != nil {
			return nil, ui.Refused("%w", err)
		}
		a.ip = ip
	}
	return a, nil
}

// confirmHostKey finds the host key that aivm will pin for the VM: the one in the user's
// known_hosts, or one whose fingerprint the user confirms.
func (e Part) confirmHostKey(ctx context.Context, a *adoption, o AdoptOptions) error {
	name := a.w.Name
	if pinned, err := e.SSH.PinnedKey(name); err == nil {
		a.key, a.known = pinned, true // an interrupted run has pinned it
		return nil
	}
	if a.leased {
		key, err := e.SSH.KnownKey(a.ip.String())
		if err != nil {
			return err
		}
		if key != nil {
			a.key, a.known = key, true
			return nil
		}
	}
	if !a.leased {
		return ui.Refused("VM %q is not running, so its address and host key cannot be read", name).
			Hint(ui.CmdFor("start it without changes", e.Virsh("start ")+name), ui.CmdFor("then", e.Rerun))
	}
	sctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	key, err := e.HostKeyOf(sctx, netip.AddrPortFrom(a.ip, 22).String())
	if err != nil {
		return ui.Refused("your known_hosts has no host key for %s, and the VM presents none: %w", a.ip, err).
			Hint(ui.CmdFor("check on its console whether it has booted", e.Virsh("console ")+name))
	}
	a.key = key
	shown := ssh.FingerprintSHA256(key)
	compare := "to compare it, open the console with: " + e.Virsh("console ") + name + ", and there run: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
	switch {
	case o.HostKey == shown || e.DryRun:
		return nil
	case o.HostKey != "":
		return ui.Refused("the machine at %s presents the host key %s, not %s", a.ip, shown, ui.CleanTo(o.HostKey, 80)).Hint(ui.Remark(compare))
	case !e.InTTY:
		return ui.NeedsApproval("your known_hosts has no host key for VM %q at %s; the key it presents, %s, must be confirmed", name, a.ip, shown).
			Hint(ui.Remark(compare), ui.CmdFor("if it is the same", ui.AddFlag(e.Rerun, "--host-key "+shown)))
	}
	e.UI.Say("%s", compare)
	ok, err := e.UI.Confirm(ctx, fmt.Sprintf("The machine at %s presents the host key %s. Is that VM %s?", a.ip, shown, name), false)
	if err == nil && !ok {
		err = ui.NeedsApproval("nothing was changed")
	}
	return err
}

// observeEntry reads the VM's keys and the user's ssh configuration.
func (e Part) observeEntry(ctx context.Context, w *target.Target) (out sshEntry) {
	out.keys.Value, out.keys.Err = e.Identities(ctx, w)
	if out.keys.Err == nil {
		out.config = sshcfg.Observe(e.SSH, sshcfg.Stanza{Alias: w.Name})
	}
	return out
}

// planAdoption plans what is missing until the VM is adopted.
func (e Part) planAdoption(a *adoption) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	w, d, n := a.w, a.domain, a.network
	ids, err := a.ssh.keys.Value, a.ssh.keys.Err
	if err != nil {
		return p, err
	}
	in := state.Instance{UUID: d.UUID, MAC: d.MAC, Address: a.ip.String(), User: w.Record.VM.User, Identities: sshcfg.StanzaIdentities(ids), Adopted: true}
	p.Add(plan.Action{
		ID: "adopt.state", Why: fmt.Sprintf("record its address %s, its keys, and its host key %s", a.ip, ssh.FingerprintSHA256(a.key)),
		Shows: []string{"write " + e.SSH.VMDir(w.Name) + "/"}, Consent: plan.Ask,
		Do: func(context.Context) error {
			if err := e.State().SaveInstance(w.Name, in); err != nil {
				return session.StateErr(e.SSH.VMDir(w.Name), err)
			}
			return session.StateErr(e.SSH.VMDir(w.Name), e.SSH.WriteKnownHosts(w.Name, w.Name, a.key))
		},
	})
	if !n.Mark.Exists {
		p.Add(plan.Action{
			ID: "adopt.network", Why: "mark network " + n.Name + " as aivm's; every VM in it then gets aivm's firewall", Consent: plan.Ask,
			Shows: []string{"virsh net-metadata " + n.Name + " --uri " + virt.MarkNS},
			Do:    func(ctx context.Context) error { return a.conn.MarkNetwork(ctx, n.Name, e.UID) },
		})
	}
	if r := (virt.Reservation{MAC: d.MAC, Name: w.Name, IP: a.ip}); !hasReservation(n, r) {
		p.Add(plan.Action{
			ID: "adopt.reserve", Why: fmt.Sprintf("reserve the address %s for it", a.ip), Consent: plan.Ask,
			Shows: []string{fmt.Sprintf("virsh net-update %s add ip-dhcp-host \"<host mac='%s' name='%s' ip='%s'/>\"", n.Name, r.MAC, r.Name, r.IP)},
			Do:    func(ctx context.Context) error { return a.conn.Reserve(ctx, n.Name, r) },
		})
	}
	as, err := sshcfg.Plan(a.ssh.config, e.Stanza(w.Name, in))
	if err != nil && !errors.Is(err, sshcfg.ErrReadOnly) {
		return p, err
	}
	p.Add(as...)
	if err == nil {
		if as, err = sshcfg.PlanRemoveLegacy(a.ssh.config, w.Name); err != nil && !errors.Is(err, sshcfg.ErrReadOnly) {
			return p, err
		}
		p.Add(as...)
	}
	p.Add(e.planAdoptRecords(w, n)...)
	p.Add(plan.Action{
		ID: "adopt.domain", Why: fmt.Sprintf("mark VM %s as aivm's, with its disk %s", w.Name, diskOf(d)), Consent: plan.Ask,
		Shows: []string{"virsh metadata " + w.Name + " --uri " + virt.MarkNS},
		Do:    func(ctx context.Context) error { return a.conn.MarkDomain(ctx, w.Name, e.UID) },
	})
	return p, nil
}

// planAdoptRecords plans to give the VM's folders in the config their present tokens. 0.3
// named them after the last part of the path, so two folders could have the same name.
func (e Part) planAdoptRecords(w *target.Target, n *virt.Network) []plan.Action {
	change := func(c *config.Config) bool {
		changed := false
		for _, r := range c.VMAttachments(w.Name) {
			if t := share.Token(r.HostPath); r.Tag != t && r.Mode != string(share.Git) {
				r.Tag = t
				c.UpsertAttachment(r)
				changed = true
			}
		}
		if vm, ok := c.FindVM(w.Name); ok && w.Network.Network.Name != n.Name {
			vm.NetworkName = n.Name
			changed = true
		}
		return changed
	}
	c := w.Store.Config
	c.Attachments = append([]config.Attachment(nil), c.Attachments...)
	c.VMs = append([]config.VM(nil), c.VMs...)
	if !change(&c) {
		return nil
	}
	return []plan.Action{{
		ID: "adopt.records", Why: "update the tags of its folders and its network in the config", Shows: []string{"write " + e.StorePath}, Consent: plan.Ask,
		Do: func(ctx context.Context) error {
			return config.Update(ctx, e.StorePath, func(c *config.Config) error { change(c); return nil })
		},
	}}
}

// hasReservation reports whether the network reserves r's address for r's MAC address.
func hasReservation(n *virt.Network, r virt.Reservation) bool {
	for _, h := range n.Hosts {
		if strings.EqualFold(h.MAC, r.MAC) && h.IP == r.IP {
			return true
		}
	}
	return false
}

// diskOf returns the path of the domain's first disk in a file, for a message.
func diskOf(d *virt.Domain) string {
	for _, k := range d.Stored {
		if k.File != "" {
			return k.File
		}
	}
	return "(none in a file)"
}

// showAdoption prints the VM that is about to be adopted.
func (e Part) showAdoption(a *adoption) {
	d := a.domain
	e.UI.Say("VM %s (%s): %d CPUs, %d MB of memory, network %s, address %s", d.Name, d.State, d.VCPUs, d.RAMMB, d.Network, a.ip)
	for _, k := range d.Stored {
		if k.File != "" {
			e.UI.Say("  disk %s: %s", k.Target, ui.Clean(k.File))
		}
	}
	where := "as in your known_hosts"
	if !a.known {
		where = "as you confirmed"
	}
	e.UI.Say("  host key %s, %s", ssh.FingerprintSHA256(a.key), where)
	for _, r := range a.w.Store.Config.VMAttachments(d.Name) {
		e.UI.Say("  folder %s: stays as it is until the VM is stopped, then aivm shares it", ui.Clean(r.HostPath))
	}
	e.UI.Say("once it is adopted, \"aivm vm delete %s\" deletes it with its disk", d.Name)
}

// adoptedDir is a directory of a VM of 0.3, and the files in it that are deleted with the VM.
type adoptedDir struct {
	dir   string
	files []string
}

// adoptedFiles returns the files of a VM of 0.3 that `vm delete` deletes, in the order of its
// disks. It returns only files below the VM's own directory, where 0.3 created them.
func adoptedFiles(d *virt.Domain, baseDir, vm, image string) []adoptedDir {
	var out []adoptedDir
	own := filepath.Join(baseDir, vm) + "/"
	for _, k := range d.Stored {
		dir, file := filepath.Split(k.File)
		if dir = filepath.Clean(dir); !strings.HasPrefix(filepath.Clean(k.File), own) {
			continue
		}
		if i := slices.IndexFunc(out, func(a adoptedDir) bool { return a.dir == dir }); i >= 0 {
			out[i].files = append(out[i].files, file)
		} else {
			out = append(out, adoptedDir{dir, []string{file}})
		}
	}
	for i, a := range out {
		switch {
		case a.dir == filepath.Join(baseDir, vm, "images") && image != "" && filepath.Base(image) == image:
			out[i].files = append(a.files, image) // in 0.3 each VM had its own copy
		case a.dir == filepath.Join(baseDir, vm, "cloud-init"):
			out[i].files = append(a.files, "user-data", "meta-data", "network-config")
		}
	}
	return out
}
