package host

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root/mountinfo"
)

// PathFact is who owns a path and who may write there.
type PathFact struct {
	Path  string
	Mode  fs.FileMode
	UID   int
	Exist bool
	Err   error // could not be looked at
}

// LibvirtFact is what the connection to libvirt says.
type LibvirtFact struct {
	Library, QEMU string // versions, "9.0.0"
}

// SSHServer is what a machine says on its ssh port, or why it says nothing.
type SSHServer struct {
	Where  string // "VM a"
	Banner string
	Err    error
}

// Examination is what only the doctor asks for: it costs processes, more
// files, and answers of others.
type Examination struct {
	UID        int
	DiskDir    string // where VM disks lie
	CacheDir   string // where images lie
	SSHVersion string // as "ssh -V" prints it
	SSHErr     error
	SSHD       string // this machine's own, as "sshd -V" prints it; "" if there is none
	SSHServers []SSHServer
	SSHPaths   []PathFact // ~/.ssh and ~/.ssh/config

	Libvirt  *plan.Known[LibvirtFact] // nil: nobody asked
	Denied   bool                     // libvirt runs and refuses this user
	Helped   bool                     // and was asked through sudo
	Groups   groupsFact
	Virtiofs plan.Known[string] // what virtiofsd calls itself

	MakeKVM error // why KVM makes no VM
	Machine machineFact
	LSM     lsmFact
	Clock   clockFact
	HomeFS  plan.Known[string] // type of the file system of the home directory
	Net     netFact
}

// Asked is what others have to tell the doctor: this package talks to no
// libvirt and no guest, and runs nothing as root.
type Asked struct {
	DiskDir, CacheDir string
	Libvirt           *plan.Known[LibvirtFact]
	Denied, Helped    bool
	SSHServers        []SSHServer
	Bridges           []string            // of networks that run
	Ruleset           *plan.Known[[]byte] // "nft -j list ruleset", nil: not asked
}

// With adds what others said.
func (x Examination) With(a Asked) Examination {
	x.DiskDir, x.CacheDir, x.Libvirt, x.Denied, x.Helped, x.SSHServers = a.DiskDir, a.CacheDir, a.Libvirt, a.Denied, a.Helped, a.SSHServers
	x.Net = x.Net.with(a)
	return x
}

// Examine reads what the doctor wants beyond Facts. Programs run side by side.
func Examine(ctx context.Context, env Env, f Facts) Examination {
	x := Examination{UID: env.Euid}
	var wg sync.WaitGroup
	if ssh := f.Tools["ssh"]; ssh != "" {
		wg.Go(func() { x.SSHVersion, x.SSHErr = env.Output(ctx, ssh, "-V") })
	}
	if v := f.Tools["virtiofsd"]; v != "" {
		wg.Go(func() { x.Virtiofs.Value, x.Virtiofs.Err = env.Output(ctx, v, "--version") })
	}
	if sshd := f.Tools["sshd"]; sshd != "" {
		// Before 9.2 there is no -V: it then says so, its version, and fails.
		wg.Go(func() { x.SSHD, _ = env.Output(ctx, sshd, "-V") })
	}
	if f.KVM.Usable && f.KVM.Reason == "" {
		x.MakeKVM = env.MakeKVM()
	}
	for _, p := range []string{".ssh", ".ssh/config"} {
		x.SSHPaths = append(x.SSHPaths, pathFact(env, filepath.Join(env.Home, p)))
	}
	x.Groups = groups(env)
	x.Machine = machine(env, f)
	x.LSM = lsm(env)
	x.Clock = clock(env)
	x.HomeFS = fileSystem(env, env.Home)
	x.Net = netFacts(env)
	wg.Wait()
	return x
}

func pathFact(env Env, path string) PathFact {
	fact := PathFact{Path: path}
	st, err := env.Stat(path)
	switch {
	case err == nil:
		fact.Exist, fact.Mode, fact.UID = true, st.Mode(), -1
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			fact.UID = int(sys.Uid)
		}
	case !errors.Is(err, fs.ErrNotExist):
		fact.Err = err
	}
	return fact
}

// groupsFact is whether this person is in group libvirt.
type groupsFact struct {
	Exists bool // there is such a group
	Listed bool // /etc/group names the person
	Here   bool // this process has it
}

func groups(env Env) groupsFact {
	var g groupsFact
	gid, ok := groupID(env, "libvirt")
	if !ok {
		return g
	}
	g.Exists = true
	g.Listed = groupLists(env, "libvirt", env.Getenv("USER"))
	if have, err := env.Groups(); err == nil {
		for _, h := range have {
			g.Here = g.Here || h == gid
		}
	}
	return g
}

type clockFact struct {
	Now    time.Time
	Built  time.Time // when this program's file was written; zero: not known
	Synced plan.Known[bool]
}

func clock(env Env) clockFact {
	c := clockFact{Now: env.Now()}
	if st, err := env.Stat(env.Exe); err == nil {
		c.Built = st.ModTime()
	}
	c.Synced.Value, c.Synced.Err = env.ClockSynced()
	return c
}

// fileSystem is the type of the file system path lies on: the mount with the
// longest mount point above it, the last one of several.
func fileSystem(env Env, path string) plan.Known[string] {
	b, err := env.Head(mountinfo.Self, 4<<20)
	if err != nil {
		return plan.Unknown[string](err)
	}
	ms, err := mountinfo.Parse(b)
	if err != nil {
		return plan.Unknown[string](err)
	}
	best := mountinfo.Mount{}
	for _, m := range ms {
		below := m.Point == "/" || path == m.Point || len(path) > len(m.Point) && path[:len(m.Point)+1] == m.Point+"/"
		if below && len(m.Point) >= len(best.Point) {
			best = m
		}
	}
	if best.Point == "" {
		return plan.Unknown[string](errors.New("no mount holds " + path))
	}
	return plan.Yes(best.Type)
}

// leAddress reads an address of /proc/net/route.
func leAddress(b []byte) netip.Addr { return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}) }
