package virt

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"
)

// Sizes holds the CPUs and the memory of a definition. A domain starts with VCPUs of at most
// MaxVCPUs CPUs, and with RAMMB of memory of which its balloon leaves BalloonMB.
type Sizes struct{ VCPUs, MaxVCPUs, RAMMB, BalloonMB int }

// Are reports whether a domain of these sizes starts with so many CPUs and MB of memory.
func (s Sizes) Are(vcpus, ramMB int) bool {
	return s.VCPUs == vcpus && s.MaxVCPUs == vcpus && s.RAMMB == ramMB && s.BalloonMB == ramMB
}

// parseSizes parses the sizes of a domain's XML, and nothing else, since "aivm list" does it
// for every VM.
func parseSizes(desc string) (s Sizes, err error) {
	type amount struct {
		Value uint   `xml:",chardata"`
		Unit  string `xml:"unit,attr"`
	}
	var x struct {
		VCPU struct {
			Value   uint `xml:",chardata"`
			Current uint `xml:"current,attr"`
		} `xml:"vcpu"`
		Memory  amount `xml:"memory"`
		Balloon amount `xml:"currentMemory"`
	}
	if err := xml.Unmarshal([]byte(desc), &x); err != nil {
		return s, fmt.Errorf("reading domain XML: %w", err)
	}
	s = Sizes{
		VCPUs: int(cmp.Or(x.VCPU.Current, x.VCPU.Value)), MaxVCPUs: int(x.VCPU.Value),
		RAMMB: memoryMB(x.Memory.Value, x.Memory.Unit), BalloonMB: memoryMB(x.Balloon.Value, x.Balloon.Unit),
	}
	s.BalloonMB = cmp.Or(s.BalloonMB, s.RAMMB)
	return s, nil
}

// Resize gives the definition of a domain other CPUs and memory, which it has from its next
// start on. Nothing else of the definition changes, and a running domain does not.
func (c *Conn) Resize(ctx context.Context, name string, vcpus, ramMB int) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		for _, flag := range []libvirt.DomainVCPUFlags{libvirt.DomainVCPUMaximum, 0} {
			if err := c.l.DomainSetVcpusFlags(d, uint32(vcpus), uint32(libvirt.DomainVCPUConfig|flag)); err != nil {
				return err
			}
		}
		for _, flag := range []libvirt.DomainMemoryModFlags{libvirt.DomainMemMaximum, 0} {
			if err := c.l.DomainSetMemoryFlags(d, uint64(ramMB)<<10, uint32(libvirt.DomainMemConfig|flag)); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetDiscard lets a guest free space in the file of its disk with this target ("vda"), from
// its next start on.
func (c *Conn) SetDiscard(ctx context.Context, name, target string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		desc, err := c.l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive|libvirt.DomainXMLSecure)
		if err != nil {
			return err
		}
		device, err := withDiscard(desc, target)
		if err != nil || device == "" {
			return err
		}
		return c.l.DomainUpdateDeviceFlags(d, device, libvirt.DomainDeviceModifyConfig)
	})
}

// withDiscard returns the text of the disk with this target in a domain's XML, with
// discard='unmap' added to its driver; "" if it has that. The text is not parsed and written
// again, since libvirtxml drops elements that it does not know.
func withDiscard(desc, target string) (string, error) {
	dec := xml.NewDecoder(strings.NewReader(desc))
	var path []string
	var from, driver int64 // where the disk begins, and where its driver's start tag ends
	var has, is bool
	for {
		at := dec.InputOffset()
		t, err := dec.RawToken()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("the definition has no disk %q with a driver", target)
		}
		if err != nil {
			return "", fmt.Errorf("reading domain XML: %w", err)
		}
		switch k := t.(type) {
		case xml.StartElement:
			path = append(path, k.Name.Local)
			switch strings.Join(path, "/") {
			case "domain/devices/disk":
				from, driver, has, is = at, 0, false, false
			case "domain/devices/disk/driver":
				driver = dec.InputOffset()
				for _, a := range k.Attr {
					has = has || a.Name.Local == "discard" && a.Value == "unmap"
				}
			case "domain/devices/disk/target":
				for _, a := range k.Attr {
					is = is || a.Name.Local == "dev" && a.Value == target
				}
			}
		case xml.EndElement:
			if len(path) == 0 {
				return "", errors.New("reading domain XML: an element ends that did not begin")
			}
			if strings.Join(path, "/") == "domain/devices/disk" && is && driver > 0 {
				if has {
					return "", nil
				}
				return insertDiscard(desc[from:driver]) + desc[driver:dec.InputOffset()], nil
			}
			path = path[:len(path)-1]
		}
	}
}

// insertDiscard adds the attribute to the start tag at the end of text, instead of one with
// another value.
func insertDiscard(text string) string {
	open := strings.LastIndexByte(text, '<')
	tag := strings.TrimSuffix(text[open:], ">")
	end := ">"
	if cut := strings.TrimSuffix(tag, "/"); cut != tag {
		tag, end = cut, "/>"
	}
	for _, old := range []string{" discard='ignore'", ` discard="ignore"`} {
		tag = strings.ReplaceAll(tag, old, "")
	}
	return text[:open] + strings.TrimRight(tag, " ") + " discard='unmap'" + end
}
