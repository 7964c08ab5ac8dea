package record

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// domain is a libvirt domain: its definition and, while it runs, its live definition.
type domain struct {
	name            string
	uuid            libvirt.UUID
	config, live    *libvirtxml.Domain
	state           libvirt.DomainState
	reason          int32
	id              int32
	meta            []element
	snaps           []string
	ignoresDetach   bool // the guest does not release a device that is detached
	ignoresShutdown bool // the guest ignores a shutdown
	transient       bool // the domain is removed when it stops
}

// element is one element of a domain's metadata.
type element struct{ prefix, uri, local, rest string }

func (e element) marked() string {
	head, tail, _ := strings.Cut(e.rest, ">")
	if slash := strings.TrimSuffix(head, "/"); slash != head {
		return fmt.Sprintf("<%s:%s xmlns:%s=%q%s/>", e.prefix, e.local, e.prefix, e.uri, slash)
	}
	return fmt.Sprintf("<%s:%s xmlns:%s=%q%s>%s", e.prefix, e.local, e.prefix, e.uri, head, strings.Replace(tail, "</"+e.local+">", "</"+e.prefix+":"+e.local+">", 1))
}

func (e element) plain() string { return "<" + e.local + e.rest }

// parseMeta parses the elements of a definition's metadata.
func parseMeta(text string) []element {
	var x struct {
		Els []struct {
			XMLName xml.Name
			Attrs   []xml.Attr `xml:",any,attr"`
			Inner   string     `xml:",innerxml"`
		} `xml:",any"`
	}
	if xml.Unmarshal([]byte("<m>"+text+"</m>"), &x) != nil {
		return nil
	}
	var out []element
	for _, e := range x.Els {
		k := element{prefix: "aivm", uri: e.XMLName.Space, local: e.XMLName.Local}
		for _, a := range e.Attrs {
			if a.Name.Space == "" && a.Name.Local != "xmlns" {
				k.rest += fmt.Sprintf(" %s=%q", a.Name.Local, a.Value)
			}
		}
		if e.Inner == "" {
			k.rest += "/>"
		} else {
			k.rest += ">" + e.Inner + "</" + e.XMLName.Local + ">"
		}
		out = append(out, k)
	}
	return out
}

// uuidOf parses a UUID, or derives one from another text.
func uuidOf(text string) (u libvirt.UUID) {
	if b, err := hex.DecodeString(strings.ReplaceAll(text, "-", "")); err == nil && len(b) == len(u) {
		copy(u[:], b)
		return u
	}
	sum := sha256.Sum256([]byte(text))
	copy(u[:], sum[:])
	return u
}

func uuidText(u libvirt.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func (l *libvirtd) domainNamed(name string) *domain {
	for _, d := range l.domains {
		if d.name == name {
			return d
		}
	}
	return nil
}

func (l *libvirtd) domain(d libvirt.Domain) (*domain, error) {
	for _, k := range l.domains {
		if k.uuid == d.UUID {
			return k, nil
		}
	}
	return nil, fail(libvirt.ErrNoDomain, "Domain not found: no domain with matching uuid '%s' (%s)", uuidText(d.UUID), d.Name)
}

func (d *domain) ref() libvirt.Domain {
	return libvirt.Domain{Name: d.name, UUID: d.uuid, ID: d.id}
}

func (d *domain) running() bool {
	return d.state == libvirt.DomainRunning || d.state == libvirt.DomainPaused
}

func (d *domain) xml(inactive bool) (string, error) {
	x := *d.config
	if d.live != nil && !inactive {
		x = *d.live
	}
	if len(d.meta) > 0 {
		var b strings.Builder
		for _, e := range d.meta {
			b.WriteString(e.marked())
		}
		x.Metadata = &libvirtxml.DomainMetadata{XML: b.String()}
	} else {
		x.Metadata = nil
	}
	return x.Marshal()
}

func (l *libvirtd) define(text string) (*domain, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return nil, fail(libvirt.ErrXMLError, "%v", err)
	}
	d := l.domainNamed(x.Name)
	if d == nil {
		d = &domain{name: x.Name, state: libvirt.DomainShutoff, id: -1}
		l.domains = append(l.domains, d)
	}
	if x.UUID == "" {
		x.UUID = uuidText(uuidOf("domain " + x.Name))
	}
	d.uuid, d.config = uuidOf(x.UUID), &x
	if x.Metadata != nil {
		d.meta = parseMeta(x.Metadata.XML)
	}
	return d, nil
}

// start sets what a running domain has: an ID, aliases of its devices, and names of its tap interfaces.
func (l *libvirtd) start(d *domain) error {
	text, err := d.config.Marshal()
	if err != nil {
		return err
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return err
	}
	l.nextID++
	d.id, d.state, d.live = l.nextID, libvirt.DomainRunning, &x
	id := int(d.id)
	x.ID = &id
	for i := range x.Devices.Disks {
		x.Devices.Disks[i].Alias = &libvirtxml.DomainAlias{Name: fmt.Sprintf("virtio-disk%d", i)}
	}
	for i := range x.Devices.Filesystems {
		x.Devices.Filesystems[i].Alias = &libvirtxml.DomainAlias{Name: fmt.Sprintf("fs%d", i)}
	}
	for i := range x.Devices.Interfaces {
		x.Devices.Interfaces[i].Target = &libvirtxml.DomainInterfaceTarget{Dev: fmt.Sprintf("vnet%d", id+i)}
		x.Devices.Interfaces[i].Alias = &libvirtxml.DomainAlias{Name: fmt.Sprintf("net%d", i)}
	}
	return nil
}

func (l *libvirtd) stop(d *domain) {
	d.state, d.live, d.id, d.reason = libvirt.DomainShutoff, nil, -1, int32(libvirt.DomainShutoffShutdown)
	if d.transient {
		l.domains = slices.DeleteFunc(l.domains, func(o *domain) bool { return o == d })
	}
}

// devices applies f to the devices of the definition, of the running domain, or of both, depending on
// the flags.
func (d *domain) devices(flags uint32, f func(*libvirtxml.DomainDeviceList) error) error {
	var to []*libvirtxml.Domain
	if flags&uint32(libvirt.DomainDeviceModifyConfig) != 0 || flags == 0 && d.live == nil {
		to = append(to, d.config)
	}
	if d.live != nil && (flags&uint32(libvirt.DomainDeviceModifyLive) != 0 || flags == 0) {
		to = append(to, d.live)
	}
	for _, x := range to {
		if err := f(x.Devices); err != nil {
			return err
		}
	}
	return nil
}

func (d *domain) attach(text string, flags uint32) error {
	var fs libvirtxml.DomainFilesystem
	if err := fs.Unmarshal(text); err != nil {
		return err
	}
	return d.devices(flags, func(l *libvirtxml.DomainDeviceList) error {
		l.Filesystems = append(l.Filesystems, fs)
		return nil
	})
}

func (d *domain) detach(text string, flags uint32) error {
	if d.ignoresDetach && flags&uint32(libvirt.DomainDeviceModifyLive) != 0 {
		return nil
	}
	if strings.HasPrefix(strings.TrimSpace(text), "<disk") {
		var k libvirtxml.DomainDisk
		if err := k.Unmarshal(text); err != nil {
			return err
		}
		return d.devices(flags, func(l *libvirtxml.DomainDeviceList) error {
			l.Disks = slices.DeleteFunc(l.Disks, func(o libvirtxml.DomainDisk) bool { return o.Serial == k.Serial })
			return nil
		})
	}
	var fs libvirtxml.DomainFilesystem
	if err := fs.Unmarshal(text); err != nil {
		return err
	}
	return d.devices(flags, func(l *libvirtxml.DomainDeviceList) error {
		l.Filesystems = slices.DeleteFunc(l.Filesystems, func(o libvirtxml.DomainFilesystem) bool { return o.Target.Dir == fs.Target.Dir })
		return nil
	})
}

func (l *libvirtd) domainCalls() {
	on(l, 23, func(a libvirt.DomainLookupByNameArgs) (r libvirt.DomainLookupByNameRet, err error) {
		d := l.domainNamed(a.Name)
		if d == nil {
			return r, fail(libvirt.ErrNoDomain, "Domain not found: no domain with matching name '%s'", a.Name)
		}
		return libvirt.DomainLookupByNameRet{Dom: d.ref()}, nil
	})
	on(l, 273, func(libvirt.ConnectListAllDomainsArgs) (r libvirt.ConnectListAllDomainsRet, err error) {
		for _, d := range l.domains {
			r.Domains = append(r.Domains, d.ref())
		}
		r.Ret = uint32(len(r.Domains))
		return r, nil
	})
	on(l, 212, func(a libvirt.DomainGetStateArgs) (r libvirt.DomainGetStateRet, err error) {
		d, err := l.domain(a.Dom)
		if err != nil {
			return r, err
		}
		return libvirt.DomainGetStateRet{State: int32(d.state), Reason: d.reason}, nil
	})
	on(l, 14, func(a libvirt.DomainGetXMLDescArgs) (r libvirt.DomainGetXMLDescRet, err error) {
		d, err := l.domain(a.Dom)
		if err != nil {
			return r, err
		}
		r.XML, err = d.xml(a.Flags&libvirt.DomainXMLInactive != 0)
		return r, err
	})
	on(l, 350, func(a libvirt.DomainDefineXMLFlagsArgs) (r libvirt.DomainDefineXMLFlagsRet, err error) {
		l.note("define domain", a.XML)
		d, err := l.define(a.XML)
		if err != nil {
			return r, err
		}
		return libvirt.DomainDefineXMLFlagsRet{Dom: d.ref()}, nil
	})
	on(l, 10, func(a libvirt.DomainCreateXMLArgs) (r libvirt.DomainCreateXMLRet, err error) {
		l.note("boot domain that is not kept", a.XMLDesc)
		d, err := l.define(a.XMLDesc)
		if err != nil {
			return r, err
		}
		d.transient = true
		err = l.start(d)
		return libvirt.DomainCreateXMLRet{Dom: d.ref()}, err
	})
	l.domainDo(9, "start domain", func(d *domain) error { return l.start(d) })
	l.domainDo(28, "resume domain", func(d *domain) error { d.state = libvirt.DomainRunning; return nil })
	on(l, 258, func(a libvirt.DomainShutdownFlagsArgs) (none, error) {
		return none{}, l.withDomain(a.Dom, "shut domain down", func(d *domain) error {
			if !d.running() {
				return fail(libvirt.ErrOperationInvalid, "Requested operation is not valid: domain is not running")
			}
			if !d.ignoresShutdown {
				l.stop(d)
			}
			return nil
		})
	})
	on(l, 234, func(a libvirt.DomainDestroyFlagsArgs) (none, error) {
		return none{}, l.withDomain(a.Dom, "destroy domain", func(d *domain) error {
			if !d.running() {
				return fail(libvirt.ErrOperationInvalid, "Requested operation is not valid: domain is not running")
			}
			l.stop(d)
			return nil
		})
	})
	on(l, 231, func(a libvirt.DomainUndefineFlagsArgs) (none, error) {
		return none{}, l.withDomain(a.Dom, "undefine domain", func(d *domain) error {
			l.domains = slices.DeleteFunc(l.domains, func(o *domain) bool { return o == d })
			return nil
		})
	})
	on(l, 160, func(a libvirt.DomainAttachDeviceFlagsArgs) (none, error) {
		return none{}, l.withDomain(a.Dom, fmt.Sprintf("attach device (flags %d) to domain", a.Flags), func(d *domain) error {
			l.note("device", a.XML)
			return d.attach(a.XML, a.Flags)
		})
	})
	on(l, 161, func(a libvirt.DomainDetachDeviceFlagsArgs) (none, error) {
		return none{}, l.withDomain(a.Dom, fmt.Sprintf("detach device (flags %d) from domain", a.Flags), func(d *domain) error {
			l.note("device", a.XML)
			return d.detach(a.XML, a.Flags)
		})
	})
	on(l, 392, func(a libvirt.DomainDetachDeviceAliasArgs) (none, error) {
		return none{}, l.withDomain(a.Dom, "detach "+a.Alias+" from domain", func(d *domain) error {
			return d.devices(a.Flags, func(k *libvirtxml.DomainDeviceList) error {
				k.Disks = slices.DeleteFunc(k.Disks, func(o libvirtxml.DomainDisk) bool { return o.Alias != nil && o.Alias.Name == a.Alias })
				return nil
			})
		})
	})
	on(l, 265, func(a libvirt.DomainGetMetadataArgs) (r libvirt.DomainGetMetadataRet, err error) {
		d, err := l.domain(a.Dom)
		if err != nil {
			return r, err
		}
		for _, e := range d.meta {
			if len(a.Uri) == 1 && e.uri == a.Uri[0] {
				return libvirt.DomainGetMetadataRet{Metadata: e.plain()}, nil
			}
		}
		return r, fail(libvirt.ErrNoDomainMetadata, "metadata not found: Requested metadata element is not present")
	})
	on(l, 264, func(a libvirt.DomainSetMetadataArgs) (none, error) {
		return none{}, l.withDomain(a.Dom, fmt.Sprintf("set metadata (flags %d) of domain", a.Flags), func(d *domain) error {
			d.meta = slices.DeleteFunc(d.meta, func(e element) bool { return e.uri == a.Uri[0] })
			if len(a.Metadata) == 0 {
				return nil
			}
			l.note("metadata", a.Key[0]+" "+a.Uri[0]+"\n"+a.Metadata[0])
			for _, e := range parseMeta(a.Metadata[0]) {
				e.prefix, e.uri = a.Key[0], a.Uri[0]
				d.meta = append(d.meta, e)
			}
			return nil
		})
	})
}

func (l *libvirtd) withDomain(ref libvirt.Domain, what string, f func(*domain) error) error {
	d, err := l.domain(ref)
	if err != nil {
		return err
	}
	l.note(what+" "+d.name, "")
	return f(d)
}

func (l *libvirtd) domainDo(proc uint32, what string, f func(*domain) error) {
	on(l, proc, func(a libvirt.DomainCreateArgs) (none, error) { return none{}, l.withDomain(a.Dom, what, f) })
}
