package checks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// DoctorFacts holds what the doctor read: everything that this user's VMs depend on.
type DoctorFacts struct {
	Host           host.Facts
	Exam           host.Examination
	store          plan.Known[*config.Store]
	Net            network.Facts
	VMs            []SSHEntry
	sshErr         error                          // of the ssh configuration itself
	staleIncludes  []sshcfg.GoneStore             // Include lines for configs that no longer exist
	Asked          bool                           // libvirt answered
	StaleFirewalls plan.Known[[]root.NetManifest] // firewalls of networks that no longer exist
}

// SSHEntry holds what the doctor read of one VM's ssh entry.
type SSHEntry struct {
	want       *target.Target
	inst       *state.Instance
	Plan       []plan.Action // to write the entry, if it is missing or differs
	err        error         // why the entry cannot be written or read
	mismatches []sshcfg.Mismatch
	edited     []sshcfg.Mismatch // options in its file that differ from what aivm wrote
	path       string            // of its file
	absent     bool              // its file does not exist
	broken     error             // why its file is no longer an entry that aivm wrote
	loginErr   error             // why a login over the alias failed
	loggedIn   bool              // a login over the alias worked
}

// Diagnose reads the facts for the doctor, concurrently where possible. sudo: use the privileged
// helper for facts that only root may read.
func (e Part) Diagnose(ctx context.Context, sudo bool) (DoctorFacts, error) {
	var d DoctorFacts
	d.Host = e.HostFacts()
	d.store.Value, d.store.Err = e.Load()
	a := host.CallerFacts{DiskDir: session.DefaultBaseDir, CacheDir: e.Cache.Dir}
	if d.store.Err == nil {
		a.DiskDir = e.BaseDir(d.store.Value.Config.Defaults.Paths)
		d.VMs = e.sshEntries(d.store.Value)
	}
	var exam host.Examination
	var rules plan.Known[[]byte]
	var wg sync.WaitGroup
	wg.Go(func() { d.sshErr, d.staleIncludes = e.examineSSH(ctx, d.VMs), sshcfg.GoneStores(e.SSH) })
	wg.Go(func() { exam = host.Examine(ctx, e.Host, d.Host) })
	isRoot, seesRules := e.Host.Euid == 0, d.Host.Tools["nft"] != ""
	if isRoot && seesRules {
		wg.Go(func() { rules = e.ruleset(ctx) })
	}
	states := e.askLibvirt(ctx, sudo, &a, &d.Net)
	for _, n := range d.Net.Networks.Value {
		if n.Active && n.Mark.By(e.UID) {
			a.Bridges = append(a.Bridges, n.Bridge)
		}
	}
	a.SSHServers = e.banners(ctx, d.VMs, states)
	wg.Wait()
	if sudo && !isRoot && seesRules {
		// Through the privileged helper, which askLibvirt may have started already.
		rules = e.ruleset(ctx)
	}
	if (sudo || isRoot) && seesRules {
		a.Ruleset = &rules
	}
	if d.sshErr == nil {
		e.tryLogins(ctx, d.VMs, a.SSHServers, states == nil)
	}
	d.Exam, d.Asked = exam.With(a), a.Libvirt != nil
	return d, ctx.Err()
}

// askLibvirt stores libvirt's versions and networks in a and n, and returns the states of this user's
// VMs.
func (e Part) askLibvirt(ctx context.Context, sudo bool, a *host.CallerFacts, n *network.Facts) map[string]virt.Brief {
	n.Libvirt = e.URI()
	n.Routes, n.Interfaces = e.Routes()
	n.Networks = plan.Unknown[[]*virt.Network](errors.New("libvirt was not asked"))
	l, err := e.Libvirt(ctx)
	if errors.Is(err, virt.ErrDenied) && sudo {
		if k, helpErr := e.LibvirtAsRoot(ctx); helpErr != nil {
			e.WarnOnce(helpErr.Error())
		} else {
			l, err, a.ViaSudo = k, nil, true
		}
	}
	if err != nil {
		n.Networks.Err = err
		a.Denied = errors.Is(err, virt.ErrDenied)
		if e.LibvirtAbsent(err) {
			n.Networks = plan.Yes[[]*virt.Network](nil)
		} else if !a.Denied && !errors.Is(err, virt.ErrNoDaemon) {
			k := plan.Unknown[host.LibvirtFact](err)
			a.Libvirt = &k
		}
		return nil
	}
	var k plan.Known[host.LibvirtFact]
	k.Value.Library, k.Value.QEMU, k.Err = l.Versions(ctx)
	a.Libvirt = &k
	n.Networks.Value, n.Networks.Err = l.Networks(ctx)
	states, err := l.Briefs(ctx, e.UID)
	if err != nil {
		return nil
	}
	return states
}

// ruleset reads the rules of nftables through the privileged helper.
func (e Part) ruleset(ctx context.Context) plan.Known[[]byte] {
	res, err := e.Root.Do(ctx, root.Ruleset{}, nil)
	if err != nil {
		return plan.Unknown[[]byte](err)
	}
	defer res.File.Close()
	b, err := io.ReadAll(res.File)
	return plan.Known[[]byte]{Value: b, Err: err}
}

// bannerLimit is how long a guest's SSH server may take to send its first line. The doctor has to be
// quick; an emulated guest may take a second, and counts as unknown then.
const bannerLimit = 200 * time.Millisecond

// errSlowBanner is the error of a guest that accepted the connection.
var errSlowBanner = fmt.Errorf("it accepts connections, but did not send its version within %s", bannerLimit)

// banners reads the first line of the SSH server of each running VM. OpenSSH penalizes a connection
// without a login (PerSourcePenalties); one connection is far from its limit.
func (e Part) banners(ctx context.Context, vms []SSHEntry, states map[string]virt.Brief) []host.SSHServer {
	var running []*SSHEntry // examineSSH writes other fields of them concurrently
	for i := range vms {
		if p := &vms[i]; p.inst != nil && states[p.want.Name].State == virt.Running {
			running = append(running, p)
		}
	}
	out := make([]host.SSHServer, len(running))
	var wg sync.WaitGroup
	for i, p := range running {
		wg.Go(func() {
			out[i].Where = "VM " + p.want.Name
			out[i].Banner, out[i].Err = e.banner(ctx, net.JoinHostPort(p.inst.Address, strconv.Itoa(22)))
		})
	}
	wg.Wait()
	return out
}

func (e Part) banner(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bannerLimit)
	defer cancel()
	c, err := e.DialNet(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(t)
	}
	line, err := bufio.NewReader(io.LimitReader(c, 256)).ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errSlowBanner
	}
	return ui.CleanTo(strings.TrimSpace(line), 100), err
}

// sshEntries returns an SSHEntry for each VM in the config.
func (e Part) sshEntries(store *config.Store) []SSHEntry {
	var out []SSHEntry
	for _, name := range store.Config.VMNames() {
		var p SSHEntry
		if p.want, p.err = target.Recorded(store, name); p.err == nil {
			p.inst, p.err = e.State().Instance(name)
		}
		out = append(out, p)
	}
	return out
}

// sshLimit is how long ssh may take to read its configuration: a "Match exec" in it can run any
// program.
const sshLimit = 3 * time.Second

// examineSSH checks each VM's entry and then the ssh configuration itself.
func (e Part) examineSSH(ctx context.Context, vms []SSHEntry) error {
	if e.HostFacts().Tools["ssh"] == "" {
		return nil // another check reports that ssh is missing
	}
	ctx, cancel := context.WithTimeout(ctx, sshLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i := range vms {
		if p := &vms[i]; p.err == nil && p.inst != nil {
			wg.Go(func() { e.examineEntry(ctx, p) })
		}
	}
	err := sshcfg.Health(ctx, e.SSH, nil)
	wg.Wait()
	if ctx.Err() != nil && err != nil {
		return ui.Failed("ssh did not finish reading its configuration within %s", sshLimit).Hint(ui.Remark("look for a slow \"Match exec\" in it"))
	}
	return err
}
