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

// PathFact holds owner and mode of a path.
type PathFact struct {
	Path  string
	Mode  fs.FileMode
	UID   int
	Exist bool
	Err   error // stat failed
}

// LibvirtFact holds what the connection to libvirt reports.
type LibvirtFact struct {
	Library, QEMU string // versions, "9.0.0"
}

// SSHServer holds the banner of a machine's SSH port, or the error of reading it.
type SSHServer struct {
	Where  string // "VM a"
	Banner string
	Err    error
}

// Examination holds the facts that only the doctor needs: reading them starts processes, reads more
// files, and waits for libvirt and guests.
type Examination struct {
	UID        int
	DiskDir    string // directory of VM disks
	CacheDir   string // directory of images
	SSHVersion string // as "ssh -V" prints it
	SSHErr     error
	SSHD       string // version of the host's own sshd, as "sshd -V" prints it; "" if there is none
	SSHServers []SSHServer
	SSHPaths   []PathFact // ~/.ssh and ~/.ssh/config

	Libvirt  *plan.Known[LibvirtFact] // nil: not asked
	Denied   bool                     // libvirt runs but refuses this user
	ViaSudo  bool                     // and was reached through sudo
	Groups   groupsFact
	Virtiofs plan.Known[string] // output of virtiofsd --version

	MakeKVM error // error of creating a VM with KVM
	Machine machineFact
	LSM     lsmFact
	Clock   clockFact
	HomeFS  plan.Known[string] // type of the file system of the home directory
	Net     netFact
}

// CallerFacts holds what the caller found out for the doctor: this package connects to no libvirt
// and no guest, and runs nothing as root.
type CallerFacts struct {
	DiskDir, CacheDir string
	Libvirt           *plan.Known[LibvirtFact]
	Denied, ViaSudo   bool
	SSHServers        []SSHServer
	Bridges           []string            // bridges of active networks
	Ruleset           *plan.Known[[]byte] // "nft -j list ruleset", nil: not asked
}

// With returns x with the caller's findings added.
func (x Examination) With(a CallerFacts) Examination {
	x.DiskDir, x.CacheDir, x.Libvirt, x.Denied, x.ViaSudo, x.SSHServers = a.DiskDir, a.CacheDir, a.Libvirt, a.Denied, a.ViaSudo, a.SSHServers
	x.Net = x.Net.with(a)
	return x
}

// Examine reads the doctor's facts beyond Facts. It runs the programs concurrently.
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
		// sshd has -V since 9.2. An older one fails, but prints its version with the usage.
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

// groupsFact says whether this user is in group libvirt.
type groupsFact struct {
	Exists bool // the group exists
	Listed bool // /etc/group lists the user
	Active bool // this process has the group
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
			g.Active = g.Active || h == gid
		}
	}
	return g
}

type clockFact struct {
	Now    time.Time
	Built  time.Time // when this program's file was written; zero: unknown
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

// fileSystem returns the type of the file system of path: that of the mount with the longest mount
// point above it, and of several such mounts the last one.
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
		return plan.Unknown[string](errors.New("no mount contains " + path))
	}
	return plan.Yes(best.Type)
}

// leAddress converts a little-endian address of /proc/net/route.
func leAddress(b []byte) netip.Addr { return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}) }
