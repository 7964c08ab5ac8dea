package virt

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"strconv"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// State is a domain's state, as "aivm list" prints it.
type State string

// Domain states. libvirt's other states (blocked, suspended, shutting down, crashed) are
// mapped to the nearest of these.
const (
	Running State = "running"
	Off     State = "off"
	Paused  State = "paused"
	Missing State = "missing"
)

// MarkNS is the XML namespace of aivm's ownership mark in libvirt metadata.
const MarkNS = "urn:aivm:mark:1"

// Mark is aivm's mark in the metadata of a domain or network. The zero Mark means that aivm
// did not make the object.
type Mark struct {
	Exists bool // aivm made the object
	Owner  int  // uid of the user it belongs to
}

// By reports whether the object was made by aivm for this uid.
func (m Mark) By(uid int) bool { return m.Exists && m.Owner == uid }

// MarkXML returns the mark for the <metadata> element of a definition.
func MarkXML(owner int) string {
	return fmt.Sprintf(`<aivm:mark xmlns:aivm=%q owner=%q/>`, MarkNS, strconv.Itoa(owner))
}

// parseMark finds the mark by its XML namespace, since libvirt changes prefixes and white
// space of metadata.
func parseMark(metadata string) Mark {
	var m struct {
		Marks []struct {
			XMLName xml.Name
			Owner   string `xml:"owner,attr"`
		} `xml:",any"`
	}
	if xml.Unmarshal([]byte("<m>"+metadata+"</m>"), &m) != nil {
		return Mark{}
	}
	for _, k := range m.Marks {
		if k.XMLName.Space == MarkNS && k.XMLName.Local == "mark" {
			if uid, err := strconv.Atoi(k.Owner); err == nil {
				return Mark{Exists: true, Owner: uid}
			}
		}
	}
	return Mark{}
}

// parseElement parses the single mark element that libvirt returns when asked for the
// metadata of MarkNS. libvirt returns it without the namespace.
func parseElement(element string) Mark {
	var m struct {
		XMLName xml.Name
		Owner   string `xml:"owner,attr"`
	}
	if xml.Unmarshal([]byte(element), &m) != nil || m.XMLName.Local != "mark" {
		return Mark{}
	}
	uid, err := strconv.Atoi(m.Owner)
	return Mark{Exists: err == nil, Owner: uid}
}

// Domain holds what aivm uses of one libvirt domain.
type Domain struct {
	Libvirt     URI // the libvirt that has it
	Name, UUID  string
	ID          int // while it runs; changes at each start
	State       State
	Crashed     bool // it is off because QEMU crashed
	Mark        Mark
	Accel       string // "kvm" or "qemu"
	VCPUs       int    // of the running domain, or of the definition if it is off
	RAMMB       int    // the same
	StoredSizes Sizes
	MAC         string // of the first interface
	Network     string
	Tap         string       // the host's tap device of that interface, while it runs
	Disks       []Disk       // of the running domain, or of the definition if it is off
	Stored      []Disk       // of the persistent definition, used from the next boot on
	Filesystems []Filesystem // of the running domain, or of the definition if it is off
	StoredFS    []Filesystem // of the persistent definition
	SharedRAM   bool         // its memory can be shared with virtiofsd
	SerialLog   string       // path on the host, "" if none
}

// Disk is one disk of a domain. Discard is "unmap" if the guest can free space in File.
type Disk struct{ Target, File, Serial, Alias, Discard string }

// Filesystem is one virtiofs device of a domain.
type Filesystem struct{ Source, Tag string }

// Disk returns the currently attached disk with this serial.
func (d *Domain) Disk(serial string) (Disk, bool) { return find(d.Disks, serial) }

// StoredDisk returns the disk with this serial in the persistent definition.
func (d *Domain) StoredDisk(serial string) (Disk, bool) { return find(d.Stored, serial) }

func find(disks []Disk, serial string) (Disk, bool) {
	for _, k := range disks {
		if k.Serial == serial {
			return k, true
		}
	}
	return Disk{}, false
}

// Domain returns the domain with this name; ErrNotFound if there is none.
func (c *Conn) Domain(ctx context.Context, name string) (*Domain, error) {
	var out *Domain
	err := c.do(ctx, func() error {
		d, err := c.l.DomainLookupByName(name)
		if err != nil {
			return err
		}
		out, err = c.describe(d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("domain %q: %w", name, err)
	}
	return out, nil
}

// Brief is what "aivm list" shows of a domain. The sizes are those of the running domain, or
// of the definition if it is off.
type Brief struct {
	State        State
	VCPUs, RAMMB int
}

// Briefs returns state and sizes of each domain with aivm's mark that belongs to owner, by
// name. Of the domains of others it reads only marks and states, which takes a tenth of the
// time of reading a definition. All calls of a kind are made concurrently.
func (c *Conn) Briefs(ctx context.Context, owner int) (map[string]Brief, error) {
	out := map[string]Brief{}
	err := c.do(ctx, func() error {
		ds, _, err := c.l.ConnectListAllDomains(1, 0)
		if err != nil {
			return err
		}
		type result struct {
			mark           string
			markErr, stErr error
			st             int32
		}
		results := make([]result, len(ds))
		var wg sync.WaitGroup
		for i, d := range ds {
			a := &results[i]
			wg.Go(func() {
				a.mark, a.markErr = c.l.DomainGetMetadata(d, int32(libvirt.DomainMetadataElement), libvirt.OptString{MarkNS}, 0)
			})
			wg.Go(func() { a.st, _, a.stErr = c.l.DomainGetState(d, 0) })
		}
		wg.Wait()
		var own []libvirt.Domain
		for i, a := range results {
			// ErrNoDomainMetadata means that the domain has no mark, ErrNotFound that it
			// was removed since it was listed.
			if isCode(a.markErr, libvirt.ErrNoDomainMetadata) || errors.Is(translate(a.markErr), ErrNotFound) || errors.Is(translate(a.stErr), ErrNotFound) {
				continue
			}
			if err := errors.Join(a.markErr, a.stErr); err != nil {
				return err
			}
			if parseElement(a.mark).By(owner) {
				out[ds[i].Name] = Brief{State: state(a.st)}
				own = append(own, ds[i])
			}
		}
		descs, errs := make([]string, len(own)), make([]error, len(own))
		for i, d := range own {
			wg.Go(func() { descs[i], errs[i] = c.l.DomainGetXMLDesc(d, 0) })
		}
		wg.Wait()
		for i, d := range own {
			if errors.Is(translate(errs[i]), ErrNotFound) {
				delete(out, d.Name)
				continue
			}
			if errs[i] != nil {
				return errs[i]
			}
			s, err := parseSizes(descs[i])
			if err != nil {
				return err
			}
			out[d.Name] = Brief{State: out[d.Name].State, VCPUs: s.VCPUs, RAMMB: s.RAMMB}
		}
		return nil
	})
	return out, err
}

func state(st int32) State {
	switch libvirt.DomainState(st) {
	case libvirt.DomainShutoff, libvirt.DomainCrashed, libvirt.DomainNostate:
		return Off
	case libvirt.DomainPaused, libvirt.DomainPmsuspended:
		return Paused
	default:
		return Running
	}
}

func (c *Conn) describe(d libvirt.Domain) (*Domain, error) {
	st, reason, err := c.l.DomainGetState(d, 0)
	if err != nil {
		return nil, err
	}
	desc, err := c.l.DomainGetXMLDesc(d, 0)
	if err != nil {
		return nil, err
	}
	out, err := ParseDomain(desc)
	if err != nil {
		return nil, err
	}
	out.Libvirt, out.State = c.uri, state(st)
	out.Crashed = out.State == Off && libvirt.DomainShutoffReason(reason) == libvirt.DomainShutoffCrashed
	out.Stored, out.StoredFS = out.Disks, out.Filesystems
	stored := desc
	if out.State != Off {
		// A device being detached stays in the live XML until the guest releases it.
		inactive, err := c.l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive)
		if err != nil {
			return nil, err
		}
		def, err := ParseDomain(inactive)
		if err != nil {
			return nil, err
		}
		out.Stored, out.StoredFS = def.Disks, def.Filesystems
		stored = inactive
	}
	out.StoredSizes, err = parseSizes(stored)
	return out, err
}

// ParseDomain parses a domain's XML as libvirt prints it. State is left empty.
func ParseDomain(desc string) (*Domain, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(desc); err != nil {
		return nil, fmt.Errorf("reading domain XML: %w", err)
	}
	d := &Domain{Name: x.Name, UUID: x.UUID, Accel: x.Type}
	if x.ID != nil {
		d.ID = *x.ID
	}
	if x.Metadata != nil {
		d.Mark = parseMark(x.Metadata.XML)
	}
	if b := x.MemoryBacking; b != nil && b.MemoryAccess != nil {
		d.SharedRAM = b.MemoryAccess.Mode == "shared"
	}
	if x.VCPU != nil {
		d.VCPUs = int(cmp.Or(x.VCPU.Current, x.VCPU.Value))
	}
	if x.Memory != nil {
		d.RAMMB = memoryMB(x.Memory.Value, x.Memory.Unit)
	}
	if x.Devices == nil {
		return d, nil
	}
	for _, k := range x.Devices.Disks {
		disk := Disk{Serial: k.Serial}
		if k.Target != nil {
			disk.Target = k.Target.Dev
		}
		if k.Alias != nil {
			disk.Alias = k.Alias.Name
		}
		if k.Driver != nil {
			disk.Discard = k.Driver.Discard
		}
		if k.Source != nil && k.Source.File != nil {
			disk.File = k.Source.File.File
		}
		d.Disks = append(d.Disks, disk)
	}
	for _, f := range x.Devices.Filesystems {
		fsys := Filesystem{}
		if f.Source != nil && f.Source.Mount != nil {
			fsys.Source = f.Source.Mount.Dir
		}
		if f.Target != nil {
			fsys.Tag = f.Target.Dir
		}
		d.Filesystems = append(d.Filesystems, fsys)
	}
	for _, i := range x.Devices.Interfaces {
		if d.MAC == "" && i.MAC != nil {
			d.MAC = i.MAC.Address
		}
		if d.Network == "" && i.Source != nil && i.Source.Network != nil {
			d.Network = i.Source.Network.Network
			if i.Target != nil {
				d.Tap = i.Target.Dev
			}
		}
	}
	for _, s := range x.Devices.Serials {
		if s.Log != nil {
			d.SerialLog = s.Log.File
		}
	}
	return d, nil
}

func memoryMB(v uint, unit string) int {
	switch unit {
	case "b", "bytes":
		return int(v >> 20)
	case "M", "MiB":
		return int(v)
	case "G", "GiB":
		return int(v << 10)
	default: // libvirt prints KiB
		return int(v >> 10)
	}
}

// Define creates a domain or replaces its persistent definition.
func (c *Conn) Define(ctx context.Context, desc string) error {
	return c.do(ctx, func() error {
		_, err := c.l.DomainDefineXMLFlags(desc, libvirt.DomainDefineValidate)
		return err
	})
}

// Start boots a defined domain, or resumes a paused one. A running domain is not an error.
func (c *Conn) Start(ctx context.Context, name string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		if st, _, err := c.l.DomainGetState(d, 0); err != nil {
			return err
		} else if libvirt.DomainState(st) == libvirt.DomainRunning {
			return nil
		} else if libvirt.DomainState(st) == libvirt.DomainPaused {
			return c.l.DomainResume(d)
		}
		return c.l.DomainCreate(d)
	})
}

// Shutdown asks the guest to power off (ACPI) and does not wait for it. A domain that is off is not an
// error: the guest may have powered off since its state was read.
func (c *Conn) Shutdown(ctx context.Context, name string) error {
	err := c.withDomain(ctx, name, func(d libvirt.Domain) error { return c.l.DomainShutdownFlags(d, 0) })
	if isCode(err, libvirt.ErrOperationInvalid) {
		return nil
	}
	return err
}

// Destroy powers the domain off immediately. A domain that is off is not an error.
func (c *Conn) Destroy(ctx context.Context, name string) error {
	err := c.withDomain(ctx, name, func(d libvirt.Domain) error { return c.l.DomainDestroyFlags(d, 0) })
	if isCode(err, libvirt.ErrOperationInvalid) {
		return nil
	}
	return err
}

// Undefine removes a domain's definition and everything libvirt keeps with it (managed
// save, NVRAM, snapshot metadata). Disks stay.
func (c *Conn) Undefine(ctx context.Context, name string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		return c.l.DomainUndefineFlags(d, libvirt.DomainUndefineManagedSave|libvirt.DomainUndefineNvram|
			libvirt.DomainUndefineSnapshotsMetadata|libvirt.DomainUndefineCheckpointsMetadata)
	})
}

// DetachDisk removes the disk with this serial from the persistent definition and asks a
// running guest to release it. It does not wait for the guest: one that does not respond
// keeps the device until it is powered off.
func (c *Conn) DetachDisk(ctx context.Context, name, serial string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		inactive, err := c.l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		if dev, ok, err := diskXML(inactive, serial); err != nil {
			return err
		} else if ok {
			if err := c.l.DomainDetachDeviceFlags(d, dev, uint32(libvirt.DomainDeviceModifyConfig)); err != nil {
				return err
			}
		}
		live, err := c.l.DomainGetXMLDesc(d, 0)
		if err != nil {
			return err
		}
		dom, err := ParseDomain(live)
		if err != nil {
			return err
		}
		if disk, ok := dom.Disk(serial); ok && disk.Alias != "" {
			err := c.l.DomainDetachDeviceAlias(d, disk.Alias, uint32(libvirt.DomainDeviceModifyLive))
			// libvirt refuses a second request while the first one is pending.
			if err != nil && !isCode(err, libvirt.ErrOperationFailed) && !isCode(err, libvirt.ErrOperationInvalid) && !isCode(err, libvirt.ErrInternalError) {
				return err
			}
		}
		return nil
	})
}

// diskXML returns the <disk> element with this serial. It is marshaled again, which is
// sufficient for libvirt to identify the device.
func diskXML(desc, serial string) (string, bool, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(desc); err != nil {
		return "", false, fmt.Errorf("reading domain XML: %w", err)
	}
	if x.Devices == nil {
		return "", false, nil
	}
	for _, k := range x.Devices.Disks {
		if k.Serial == serial {
			s, err := k.Marshal()
			return s, true, err
		}
	}
	return "", false, nil
}

func (c *Conn) withDomain(ctx context.Context, name string, f func(libvirt.Domain) error) error {
	err := c.do(ctx, func() error {
		d, err := c.l.DomainLookupByName(name)
		if err != nil {
			return err
		}
		return f(d)
	})
	if err != nil {
		return fmt.Errorf("domain %q: %w", name, err)
	}
	return nil
}

func isCode(err error, code libvirt.ErrorNumber) bool {
	var le libvirt.Error
	return errors.As(err, &le) && le.Code == uint32(code)
}
