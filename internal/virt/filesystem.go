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

// ErrNoSlot means that a VM has no free PCI slot for another device.
var ErrNoSlot = errors.New("the VM has no free PCI slot for another device")

// ErrStillAttached means that a running guest did not release a device.
var ErrStillAttached = errors.New("the guest has not released the device")

// HasFilesystem reports whether a filesystem with this tag is among fs.
func HasFilesystem(fs []Filesystem, tag string) bool {
	for _, f := range fs {
		if f.Tag == tag {
			return true
		}
	}
	return false
}

// AttachFilesystem adds a virtiofs device for one directory to a domain: to its definition
// and, if the domain runs, to the running VM. A device that is already there is kept.
func (c *Conn) AttachFilesystem(ctx context.Context, name string, f Filesystem) error {
	dev := libvirtxml.DomainFilesystem{
		AccessMode: "passthrough",
		// As in the device the domain is created with: see provision/domain.
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
		// If it is missing in both, it is added to both with one call, so that it has the
		// same PCI address after the next boot.
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

// detachWait is how long DetachFilesystem waits for the guest to release the device, and
// detachPoll how often it checks.
const (
	detachWait = 20 * time.Second
	detachPoll = 100 * time.Millisecond
)

// DetachFilesystem removes the virtiofs device with this tag from a domain's definition
// and, if the domain runs, from the running VM. It waits until the guest has released the
// device, since virtiofsd ends only then. The guest must have unmounted it; if it does not
// release it within detachWait, the error is ErrStillAttached.
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
	requested := false
	for deadline := time.Now().Add(detachWait); ; {
		gone := false
		err := c.withDomain(ctx, name, func(d libvirt.Domain) error {
			now, err := c.describe(d)
			if err != nil {
				return err
			}
			if gone = now.State == Off || !HasFilesystem(now.Filesystems, tag); gone || requested {
				return nil
			}
			requested = true
			live, err := c.l.DomainGetXMLDesc(d, 0)
			if err != nil {
				return err
			}
			dev, ok, err := filesystemXML(live, tag)
			if err != nil || !ok {
				return err
			}
			err = c.l.DomainDetachDeviceFlags(d, dev, uint32(libvirt.DomainDeviceModifyLive))
			// libvirt refuses a second request while the first one is pending; keep waiting.
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
			return fmt.Errorf("detaching device %q from domain %q: %w", tag, name, ErrStillAttached)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(detachPoll):
		}
	}
}

// filesystemXML returns the <filesystem> element with this tag. It is marshaled again, which
// is sufficient for libvirt to identify the device.
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
