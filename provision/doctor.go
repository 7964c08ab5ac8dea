package provision

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
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/sshcfg"
)

// DoctorOptions are the flags of `host doctor`.
type DoctorOptions struct {
	Sudo bool // look where only root can
	Fix  bool
}

// Diagnosis is what the doctor found: the status of this machine.
type Diagnosis struct {
	Status
	Mends []string `json:"mends"` // what --fix would do
	Fixed []string `json:"fixed"` // what it has done
}

// diagnosis is one look at everything that VMs of this person depend on.
type diagnosis struct {
	host   host.Facts
	exam   host.Examination
	store  plan.Known[*config.Store]
	net    network.Facts
	vms    []patient
	sshErr error                          // of the configuration as a whole
	gone   []sshcfg.GoneStore             // Include lines of configs that are gone
	left   plan.Known[[]root.NetManifest] // walls of networks that are gone
}

// patient is a VM as the doctor sees it: its entry for ssh.
type patient struct {
	want   *want
	inst   *state.Instance
	plan   []plan.Action // what its entry lacks
	err    error         // why there can be none, or it cannot be seen
	others []sshcfg.Mismatch
}

// Doctor looks at this machine and says what keeps VMs from running or from
// being reached; with Fix it mends what it can first. Without Sudo it does
// nothing as root, except in a process that is root's.
func (e *Env) Doctor(ctx context.Context, o DoctorOptions) (Diagnosis, error) {
	st := Diagnosis{Status: Status{Schema: 1, Config: e.StorePath, Checks: []host.Check{}, Wall: Wall{Writable: []string{}}}, Mends: []string{}, Fixed: []string{}}
	if o.Fix {
		fixed, err := e.mend(ctx, o)
		if err != nil {
			return st, err
		}
		st.Fixed = fixed
	}
	d, err := e.diagnose(ctx, o.Sudo)
	if err != nil {
		return st, err
	}
	st.add(host.Doctor(d.host, d.exam)...)
	st.add(e.networksCheck(d), e.sshConfigCheck(d), e.editorCheck(), storeCheck(d))
	if p := e.planMend(d); !o.Fix {
		for _, a := range p.Actions {
			st.Mends = append(st.Mends, a.Why)
		}
	}
	return st, nil
}

// diagnose looks at everything, side by side where one need not wait for the
// other.
func (e *Env) diagnose(ctx context.Context, sudo bool) (diagnosis, error) {
	var d diagnosis
	d.host = e.hostFacts()
	d.store.Value, d.store.Err = e.load()
	a := host.Asked{DiskDir: DefaultBaseDir, CacheDir: e.Cache.Dir}
	if d.store.Err == nil {
		a.DiskDir = e.baseDir(d.store.Value.Config.Defaults.Paths)
		d.vms = e.patients(d.store.Value)
	}
	var exam host.Examination
	var rules plan.Known[[]byte]
	var wg sync.WaitGroup
	wg.Go(func() { d.sshErr, d.gone = e.examineSSH(ctx, d.vms), sshcfg.GoneStores(e.SSH) })
	wg.Go(func() { exam = host.Examine(ctx, e.Host, d.host) })
	isRoot, seesRules := e.Host.Euid == 0, d.host.Tools["nft"] != ""
	if isRoot && seesRules {
		wg.Go(func() { rules = e.ruleset(ctx) })
	}
	states := e.askLibvirt(ctx, sudo, &a, &d.net)
	for _, n := range d.net.Networks.Value {
		if n.Active && n.Mark.By(e.UID) {
			a.Bridges = append(a.Bridges, n.Bridge)
		}
	}
	a.SSHServers = e.banners(ctx, d.vms, states)
	wg.Wait()
	if sudo && !isRoot && seesRules {
		// Through the one helper, which was started by now or is at this.
		rules = e.ruleset(ctx)
	}
	if (sudo || isRoot) && seesRules {
		a.Ruleset = &rules
	}
	if d.net.Networks.Err == nil && a.Libvirt != nil {
		d.left.Value, d.left.Err = e.leftWalls(d.net.Networks.Value)
	}
	d.exam = exam.With(a)
	return d, ctx.Err()
}

// askLibvirt fills in what libvirt knows, and returns the states of this
// person's VMs.
func (e *Env) askLibvirt(ctx context.Context, sudo bool, a *host.Asked, n *network.Facts) map[string]virt.State {
	n.Routes, n.Interfaces = e.routes()
	n.Networks = plan.Unknown[[]*virt.Network](errors.New("libvirt was not asked"))
	l, err := e.libvirt(ctx)
	if errors.Is(err, virt.ErrDenied) && sudo {
		if k, helpErr := e.libvirtAsRoot(ctx); helpErr != nil {
			e.warnOnce(helpErr.Error())
		} else {
			l, err, a.Helped = k, nil, true
		}
	}
	if err != nil {
		n.Networks.Err = err
		a.Denied = errors.Is(err, virt.ErrDenied)
		if e.libvirtAbsent(err) {
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
	states, err := l.States(ctx, e.UID)
	if err != nil {
		return nil
	}
	return states
}

// libvirtAsRoot has root open the socket, for looking only.
func (e *Env) libvirtAsRoot(ctx context.Context) (*virt.Conn, error) {
	res, err := e.Root.Do(ctx, root.LibvirtSocket{Path: virt.Socket()}, nil)
	if err != nil {
		return nil, err
	}
	if err := e.adoptLibvirt(ctx, res); err != nil {
		return nil, err
	}
	return e.libvirt(ctx)
}

// ruleset reads nftables' rules through the privileged helper.
func (e *Env) ruleset(ctx context.Context) plan.Known[[]byte] {
	res, err := e.Root.Do(ctx, root.Ruleset{}, nil)
	if err != nil {
		return plan.Unknown[[]byte](err)
	}
	defer res.File.Close()
	b, err := io.ReadAll(res.File)
	return plan.Known[[]byte]{Value: b, Err: err}
}

// bannerLimit is how long a guest's server may take to say its name: the doctor
// is a quick look, and an emulated guest may take a second.
const bannerLimit = 200 * time.Millisecond

// banners asks the VMs that run for their server's first line. Nobody logs in,
// which OpenSSH counts as a small offence: one look is far from its limit.
func (e *Env) banners(ctx context.Context, vms []patient, states map[string]virt.State) []host.SSHServer {
	var running []*patient // examineSSH writes to other fields of them meanwhile
	for i := range vms {
		if p := &vms[i]; p.inst != nil && states[p.want.name] == virt.Running {
			running = append(running, p)
		}
	}
	out := make([]host.SSHServer, len(running))
	var wg sync.WaitGroup
	for i, p := range running {
		wg.Go(func() {
			out[i].Where = "VM " + p.want.name
			out[i].Banner, out[i].Err = e.banner(ctx, net.JoinHostPort(p.inst.Address, strconv.Itoa(22)))
		})
	}
	wg.Wait()
	return out
}

func (e *Env) banner(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bannerLimit)
	defer cancel()
	c, err := e.dialNet(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(t)
	}
	line, err := bufio.NewReader(io.LimitReader(c, 256)).ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it answers, but did not say its version within %s", bannerLimit)
	}
	return ui.CleanTo(strings.TrimSpace(line), 100), err
}

// patients are the VMs of the store.
func (e *Env) patients(store *config.Store) []patient {
	var out []patient
	for _, name := range store.Config.VMNames() {
		p := patient{want: &want{store: store, name: name}}
		if p.err = e.wantKnown(p.want); p.err == nil {
			p.inst, p.err = e.state().Instance(name)
		}
		out = append(out, p)
	}
	return out
}

// sshLimit is how long ssh may take over its own configuration: a "Match exec"
// in it can be anything.
const sshLimit = 3 * time.Second

// examineSSH looks at the configuration as a whole, then at each VM's entry.
func (e *Env) examineSSH(ctx context.Context, vms []patient) error {
	if e.hostFacts().Tools["ssh"] == "" {
		return nil // said by another check
	}
	ctx, cancel := context.WithTimeout(ctx, sshLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i := range vms {
		p := &vms[i]
		if p.err != nil || p.inst == nil {
			continue
		}
		st := e.stanza(p.want, *p.inst)
		p.plan, p.err = sshcfg.Plan(sshcfg.Observe(e.SSH, st), st)
		if p.err == nil && len(p.plan) == 0 {
			wg.Go(func() { p.others, p.err = sshcfg.Verify(ctx, e.SSH, p.want.name, st, nil) })
		}
	}
	err := sshcfg.Health(ctx, e.SSH, nil)
	wg.Wait()
	if ctx.Err() != nil && err != nil {
		return ui.Failed("ssh did not come to an end with its configuration within %s", sshLimit).Hint("look for a \"Match exec\" in it that takes long")
	}
	return err
}
