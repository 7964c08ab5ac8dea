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

// MarkDomain adds aivm's mark to the metadata of a domain that has none. libvirt changes
// only this element; the definition is not redefined.
func (c *Conn) MarkDomain(ctx context.Context, name string, owner int) error {
	return c.SetMetadata(ctx, name, "aivm", MarkNS, markElement(owner))
}

func markElement(owner int) string { return fmt.Sprintf(`<mark owner=%q/>`, strconv.Itoa(owner)) }

// MarkNetwork adds aivm's mark to the metadata of a network that has none. libvirt before
// 9.7 has no call for that; there the network is redefined with its own XML plus the
// mark, and it is an error if libvirt changes anything else.
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
			return fmt.Errorf("libvirt changed more of network %q than its mark; its definition was:\n%s", name, desc)
		}
		return nil
	})
}

// withMark inserts the mark into the text of a network's definition.
func withMark(desc string, owner int) (string, error) {
	if strings.Contains(desc, "<metadata>") {
		return strings.Replace(desc, "<metadata>", "<metadata>"+MarkXML(owner), 1), nil
	}
	// libvirt prints the metadata after the uuid.
	_, after, ok := strings.Cut(desc, "</uuid>")
	if !ok {
		return "", errors.New("the network's definition has no uuid")
	}
	return strings.TrimSuffix(desc, after) + "<metadata>" + MarkXML(owner) + "</metadata>" + after, nil
}

// elements returns the XML tokens of a document in a form that does not depend on the white
// space between elements and the kind of quotes, which libvirt may change.
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

// LeaseOf returns the IPv4 address that any network, aivm's or not, has leased to a MAC
// address; the zero Addr if there is none.
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

// SwapFilesystems replaces the shared-folder devices of a domain that is off with one
// device, given as XML. It adds and removes single devices and does not redefine the
// domain.
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
			return fmt.Errorf("parsing the new filesystem device: %w", err)
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
			b, err := xml.Marshal(filesystemXMLRef{Type: "mount", Driver: driverAttr{"virtiofs"}, Source: dirAttr{f.Source}, Target: dirAttr{f.Tag}})
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

// filesystemXMLRef is a <filesystem> element that is sufficient to identify a device:
// libvirt finds it by its target.
type filesystemXMLRef struct {
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

// RemoveFiles deletes files in a directory that is not a pool, and the directory if it is
// empty then, by making it a temporary pool.
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
		_ = c.l.StoragePoolDelete(p, 0) // fails if the directory holds other files
		return c.l.StoragePoolUndefine(p)
	}))
	return errors.Join(errs...)
}
