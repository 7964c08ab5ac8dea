package host

import (
	"fmt"
	"strings"
)

// OneShot holds what was tried for "aivm run", as the user: nothing here is guessed from versions or
// from the kernel's configuration.
type OneShot struct {
	QEMU     string // its path
	QEMUErr  error  // why it cannot be used
	Version  string // of QEMU
	Old      bool   // older than 7.2
	ImgErr   error  // qemu-img is not there
	Accel    string // "kvm" if a guest ran with it, else "tcg"
	Why      string // not kvm
	Jails    []JailFact
	Cache    string // the directory of the templates, or the one that exists above it
	CacheFS  string // the type of its file system
	TmpFile  error  // O_TMPFILE does not work there
	MemoryMB int    // available; 0: unknown
}

// JailFact says whether the server of a run's folders can be confined in one way.
type JailFact struct {
	Name string
	Err  error // nil: it held when it was tried
}

// minRunMemoryMB is the least memory with which a run makes sense: a VM of 512 MB and QEMU's own.
const minRunMemoryMB = 768

// Checks returns the checks of one-shot VMs. With nil nothing was tried.
func (o *OneShot) Checks(f Facts) []Check {
	if o == nil {
		return []Check{NewCheck("oneshot", "aivm run", Skipped, "not tried: aivm run works as an ordinary user")}
	}
	return []Check{o.qemu(f), o.accel(), o.jail(), o.memory(), o.disk()}
}

func (o *OneShot) qemu(f Facts) Check {
	c := NewCheck("oneshot-qemu", "aivm run: QEMU", OK, "QEMU %s", o.Version)
	switch {
	case o.QEMUErr != nil:
		c.State, c.Detail = Bad, o.QEMUErr.Error()
	case o.Old:
		c.State, c.Detail = Bad, fmt.Sprintf("QEMU %s is older than 7.2", o.Version)
		return c
	case o.ImgErr != nil:
		c.State, c.Detail = Bad, "qemu-img is not installed"
	default:
		c.addEvidence("%s: started and asked for its version", o.QEMU)
		return c
	}
	system := "qemu-system-x86"
	if f.Arch == "arm64" {
		system = "qemu-system-arm"
	}
	c.Fix = FixPackages(f, []string{system, "qemu-utils"})
	return c
}

func (o *OneShot) accel() Check {
	c := NewCheck("oneshot-acceleration", "aivm run: acceleration", OK, "KVM: a guest ran with it")
	switch {
	case o.QEMUErr != nil:
		c.State, c.Detail = Skipped, "QEMU cannot be asked"
	case o.Accel != "kvm":
		c.Detail = fmt.Sprintf("emulation, several times slower than KVM: %s", o.Why)
	}
	return c
}

func (o *OneShot) jail() Check {
	c := NewCheck("oneshot-jail", "aivm run: folder server", Bad, "")
	var holds, fails []string
	for _, j := range o.Jails {
		if j.Err == nil {
			holds = append(holds, j.Name)
			c.addEvidence("%s: a server started in it could reach nothing else", j.Name)
		} else {
			fails = append(fails, fmt.Sprintf("%s: %v", j.Name, j.Err))
			c.addEvidence("%s: %v", j.Name, j.Err)
		}
	}
	if len(holds) > 0 {
		c.State, c.Detail = OK, "confined by "+strings.Join(holds, " or ")
		return c
	}
	c.Detail = "it cannot be confined, so a run gets no folder (" + strings.Join(fails, "; ") + ")"
	c.Fix = []string{"allow unprivileged user namespaces, or start the kernel with Landlock (lsm=landlock,...)"}
	return c
}

func (o *OneShot) memory() Check {
	c := NewCheck("oneshot-memory", "aivm run: memory", OK, "%d MiB available", o.MemoryMB)
	switch {
	case o.MemoryMB == 0:
		c.State, c.Detail = Unknown, "the available memory is not known"
	case o.MemoryMB < minRunMemoryMB:
		c.State = Bad
		c.Detail += fmt.Sprintf(": too few for a VM of 512 MB (%d)", minRunMemoryMB)
		c.Fix = []string{"close programs, or stop a VM: aivm list"}
	}
	return c
}

// memoryFileSystems keep files in memory: a template there takes its size in RAM, and grows when a run
// touches it.
var memoryFileSystems = map[string]bool{"tmpfs": true, "ramfs": true}

func (o *OneShot) disk() Check {
	c := NewCheck("oneshot-disk", "aivm run: templates", OK, "%s is on %s, which has files without a name", o.Cache, o.CacheFS)
	fix := []string{"set XDG_CACHE_HOME to a directory on a disk (ext4, xfs or btrfs)"}
	switch {
	case memoryFileSystems[o.CacheFS]:
		c.State, c.Detail, c.Fix = Bad, fmt.Sprintf("%s is on %s: templates there would take memory", o.Cache, o.CacheFS), fix
	case o.TmpFile != nil:
		c.Detail, c.Fix = fmt.Sprintf("%s is on %s, which has no files without a name (O_TMPFILE: %v); a run that is killed while it starts can leave an empty file", o.Cache, o.CacheFS, o.TmpFile), fix
	}
	return c
}
