package virt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// ErrNoSlot is returned when a VM has no place left for another device.
var ErrNoSlot = errors.New("the VM has no free slot for another device")

// ErrStays is returned when a running guest did not give a device back.
var ErrStays = errors.New("the VM has not given the device back")

// HasFilesystem reports whether a filesystem with this tag is among fs.
func HasFilesystem(fs []Filesystem, tag string) bool {
	for _, f := range fs {
		if f.Tag == tag {
			return true
		}
	}
	return false
}

// AttachFilesystem gives a domain a virtiofs device of its own for a directory,
// in its definition and, if it runs, at once. What is there already stays.
func (c *Conn) AttachFilesystem(ctx context.Context, name string, f Filesystem) error {
	dev := libvirtxml.DomainFilesystem{
		AccessMode: "passthrough",
		// As the device the domain is made with: see provision/domain.
		Driver: &libvirtxml.DomainFilesystemDriver{Type: "virtiofs", Queue: 1024},
		Source: &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Dir: f.Source}},
		Target: &libvirtxml.DomainFilesystemTarget{Dir: f.Tag},
	}
	desc, err := dev.Marshal()
	if err != nil {
		return err
	}
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		now, err := c.describe(d)
		if err != nil {
			return err
		}
		// Together where both are missing, so that the device has the same
		// place after the next boot.
		var flags libvirt.DomainDeviceModifyFlags
		if !HasFilesystem(now.StoredFS, f.Tag) {
			flags |= libvirt.DomainDeviceModifyConfig
		}
		if now.State == Running && !HasFilesystem(now.Filesystems, f.Tag) {
			flags |= libvirt.DomainDeviceModifyLive
		}
		if flags == 0 {
			return nil
		}
		err = c.l.DomainAttachDeviceFlags(d, desc, uint32(flags))
		var le libvirt.Error
		if errors.As(err, &le) && strings.Contains(le.Message, "No more available PCI slots") {
			return ErrNoSlot
		}
		return err
	})
}

// detachPoll is how long and how often a guest is waited for that was asked to
// give a device back.
const (
	detachWait = 20 * time.Second
	detachPoll = 100 * time.Millisecond
)

// DetachFilesystem takes the virtiofs device with this tag out of a domain's
// definition and, if it runs, away from the guest, and waits until it is gone:
// only then has its daemon ended. The guest must have unmounted it.
func (c *Conn) DetachFilesystem(ctx context.Context, name, tag string) error {
	err := c.withDomain(ctx, name, func(d libvirt.Domain) error {
		inactive, err := c.l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		dev, ok, err := filesystemXML(inactive, tag)
		if err != nil || !ok {
			return err
		}
		return c.l.DomainDetachDeviceFlags(d, dev, uint32(libvirt.DomainDeviceModifyConfig))
	})
	if err != nil {
		return err
	}
	asked := false
	for deadline := time.Now().Add(detachWait); ; {
		gone := false
		err := c.withDomain(ctx, name, func(d libvirt.Domain) error {
			now, err := c.describe(d)
			if err != nil {
				return err
			}
			if gone = now.State == Off || !HasFilesystem(now.Filesystems, tag); gone || asked {
				return nil
			}
			asked = true
			live, err := c.l.DomainGetXMLDesc(d, 0)
			if err != nil {
				return err
			}
			dev, ok, err := filesystemXML(live, tag)
			if err != nil || !ok {
				return err
			}
			err = c.l.DomainDetachDeviceFlags(d, dev, uint32(libvirt.DomainDeviceModifyLive))
			// A second request while the first is pending is refused; that is "under way".
			if isCode(err, libvirt.ErrOperationFailed) || isCode(err, libvirt.ErrOperationInvalid) || isCode(err, libvirt.ErrInternalError) {
				return nil
			}
			return err
		})
		switch {
		case errors.Is(err, ErrNotFound) || err == nil && gone:
			return nil
		case err != nil:
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("domain %q, device %q: %w", name, tag, ErrStays)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(detachPoll):
		}
	}
}

// filesystemXML returns the <filesystem> element with this tag, regenerated:
// it only has to name the device for libvirt to find it.
func filesystemXML(desc, tag string) (string, bool, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(desc); err != nil {
		return "", false, fmt.Errorf("reading domain XML: %w", err)
	}
	if x.Devices == nil {
		return "", false, nil
	}
	for _, f := range x.Devices.Filesystems {
		if f.Target != nil && f.Target.Dir == tag {
			s, err := f.Marshal()
			return s, true, err
		}
	}
	return "", false, nil
}
