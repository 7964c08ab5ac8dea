package virt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"
)

// MarkDomain writes the mark into the metadata of a domain that has none. The
// definition is not read and written back: libvirt changes the one element.
func (c *Conn) MarkDomain(ctx context.Context, name string, owner int) error {
	return c.SetMetadata(ctx, name, "aivm", MarkNS, markElement(owner))
}

func markElement(owner int) string { return fmt.Sprintf(`<mark owner=%q/>`, strconv.Itoa(owner)) }

// MarkNetwork writes the mark into the metadata of a network that has none. A
// libvirt before 9.7 cannot do that: there the definition is handed back word
// for word with the element put in, which must then be all that differs.
func (c *Conn) MarkNetwork(ctx context.Context, name string, owner int) error {
	return c.withNetwork(ctx, name, func(n libvirt.Network) error {
		flags := uint32(libvirt.DomainAffectConfig)
		active, err := c.l.NetworkIsActive(n)
		if err != nil {
			return err
		}
		if active == 1 {
			flags |= uint32(libvirt.DomainAffectLive)
		}
		err = c.l.NetworkSetMetadata(n, int32(libvirt.NetworkMetadataElement), libvirt.OptString{markElement(owner)},
			libvirt.OptString{"aivm"}, libvirt.OptString{MarkNS}, flags)
		if err == nil || !errors.Is(err, libvirt.ErrUnsupported) && !isCode(err, libvirt.ErrNoSupport) {
			return err
		}
		desc, err := c.l.NetworkGetXMLDesc(n, uint32(libvirt.NetworkXMLInactive))
		if err != nil {
			return err
		}
		marked, err := withMark(desc, owner)
		if err != nil {
			return err
		}
		if _, err := c.l.NetworkDefineXML(marked); err != nil {
			return err
		}
		now, err := c.l.NetworkGetXMLDesc(n, uint32(libvirt.NetworkXMLInactive))
		if err != nil {
			return err
		}
		if elements(now) != elements(marked) {
			return fmt.Errorf("libvirt changed more of network %q than its mark; what it was:\n%s", name, desc)
		}
		return nil
	})
}

// withMark puts the mark into a network's definition as text.
func withMark(desc string, owner int) (string, error) {
	if strings.Contains(desc, "<metadata>") {
		return strings.Replace(desc, "<metadata>", "<metadata>"+MarkXML(owner), 1), nil
	}
	// Where libvirt itself puts it: behind the uuid.
	_, after, ok := strings.Cut(desc, "</uuid>")
	if !ok {
		return "", errors.New("a network without a uuid")
	}
	return strings.TrimSuffix(desc, after) + "<metadata>" + MarkXML(owner) + "</metadata>" + after, nil
}

// elements is a document without what libvirt is free to write as it likes:
// blanks between elements and the kind of quotes.
func elements(doc string) string {
	var b strings.Builder
	d := xml.NewDecoder(strings.NewReader(doc))
	for {
		t, err := d.RawToken()
		if err != nil {
			return b.String()
		}
		switch k := t.(type) {
		case xml.CharData:
			b.WriteString(strings.TrimSpace(string(k)))
		case xml.StartElement:
			fmt.Fprintf(&b, "<%s:%s %v>", k.Name.Space, k.Name.Local, k.Attr)
		case xml.EndElement:
			b.WriteString("</>")
		}
	}
}

// LeaseOf returns the address a network of anybody's has leased to a MAC.
func (c *Conn) LeaseOf(ctx context.Context, network, mac string) (ip netip.Addr, err error) {
	err = c.withNetwork(ctx, network, func(n libvirt.Network) error {
		leases, _, err := c.l.NetworkGetDhcpLeases(n, libvirt.OptString{mac}, 1, 0)
		for _, l := range leases {
			if a, perr := netip.ParseAddr(l.Ipaddr); perr == nil && a.Is4() {
				ip = a
			}
		}
		return err
	})
	return ip, err
}

// SwapFilesystems takes the shared-folder devices a domain that is off was
// defined with out of it, and puts one in: device by device, the definition is
// not redefined.
func (c *Conn) SwapFilesystems(ctx context.Context, name, device string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		desc, err := c.l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		dom, err := ParseDomain(desc)
		if err != nil {
			return err
		}
		own, err := ParseDomain("<domain><name>x</name><devices>" + device + "</devices></domain>")
		if err != nil || len(own.Filesystems) != 1 {
			return fmt.Errorf("reading the new device: %w", err)
		}
		if !slices.Contains(dom.Filesystems, own.Filesystems[0]) {
			if err := c.l.DomainAttachDeviceFlags(d, device, uint32(libvirt.DomainDeviceModifyConfig)); err != nil {
				return err
			}
		}
		for _, f := range dom.Filesystems {
			if f == own.Filesystems[0] {
				continue
			}
			b, err := xml.Marshal(oldFilesystem{Type: "mount", Driver: driverAttr{"virtiofs"}, Source: dirAttr{f.Source}, Target: dirAttr{f.Tag}})
			if err != nil {
				return err
			}
			if err := c.l.DomainDetachDeviceFlags(d, string(b), uint32(libvirt.DomainDeviceModifyConfig)); err != nil {
				return err
			}
		}
		return nil
	})
}

// oldFilesystem names a device by what libvirt finds it by: its target.
type oldFilesystem struct {
	XMLName xml.Name   `xml:"filesystem"`
	Type    string     `xml:"type,attr"`
	Driver  driverAttr `xml:"driver"`
	Source  dirAttr    `xml:"source"`
	Target  dirAttr    `xml:"target"`
}

type driverAttr struct {
	Type string `xml:"type,attr"`
}

type dirAttr struct {
	Dir string `xml:"dir,attr"`
}

// RemoveFiles deletes files of a directory that is no pool, and the directory
// if nothing else is in it, by making it a pool for the moment.
func (c *Conn) RemoveFiles(ctx context.Context, pool, dir string, names []string) error {
	if err := c.EnsurePool(ctx, pool, dir); err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, c.DeleteVolume(ctx, pool, n))
	}
	errs = append(errs, c.do(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		if err := c.l.StoragePoolDestroy(p); err != nil {
			return err
		}
		_ = c.l.StoragePoolDelete(p, 0) // refused where something else is in it
		return c.l.StoragePoolUndefine(p)
	}))
	return errors.Join(errs...)
}
