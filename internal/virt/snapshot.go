package virt

import (
	"context"
	"errors"
	"fmt"

	libvirt "github.com/digitalocean/go-libvirt"
)

// InactiveXML returns the persistent definition of a domain exactly as libvirt prints it.
func (c *Conn) InactiveXML(ctx context.Context, name string) (string, error) {
	var out string
	err := c.withDomain(ctx, name, func(d libvirt.Domain) (err error) {
		out, err = c.l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive|libvirt.DomainXMLSecure)
		return err
	})
	return out, err
}

// CreateSnapshot makes libvirt create the snapshot that desc describes.
func (c *Conn) CreateSnapshot(ctx context.Context, name, desc string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		_, err := c.l.DomainSnapshotCreateXML(d, desc, 0)
		return err
	})
}

// RedefineSnapshot registers a snapshot that exists in the disk with libvirt, replacing
// libvirt's record of it. The disk is not changed.
func (c *Conn) RedefineSnapshot(ctx context.Context, name, snapshot, desc string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		// The old record is removed first: when replacing a record, libvirt compares the
		// domain definitions and refuses if the VM got a device since then.
		if err := c.forgetSnapshot(d, snapshot); err != nil {
			return err
		}
		_, err := c.l.DomainSnapshotCreateXML(d, desc, uint32(libvirt.DomainSnapshotCreateRedefine))
		return err
	})
}

// ForgetSnapshot removes libvirt's record of a snapshot. The disk is not changed.
func (c *Conn) ForgetSnapshot(ctx context.Context, name, snapshot string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error { return c.forgetSnapshot(d, snapshot) })
}

func (c *Conn) forgetSnapshot(d libvirt.Domain, snapshot string) error {
	s, err := c.l.DomainSnapshotLookupByName(d, snapshot, 0)
	if errors.Is(translate(err), ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.l.DomainSnapshotDelete(s, libvirt.DomainSnapshotDeleteMetadataOnly)
}

// RevertSnapshot returns the disk of a domain that is off to a snapshot, and its definition
// to the one libvirt recorded with the snapshot.
func (c *Conn) RevertSnapshot(ctx context.Context, name, snapshot string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		s, err := c.l.DomainSnapshotLookupByName(d, snapshot, 0)
		if err != nil {
			return err
		}
		return c.l.DomainRevertToSnapshot(s, 0)
	})
}

// DeleteSnapshot deletes a snapshot, also from the disk. A snapshot unknown to libvirt is
// not an error.
func (c *Conn) DeleteSnapshot(ctx context.Context, name, snapshot string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		s, err := c.l.DomainSnapshotLookupByName(d, snapshot, 0)
		if errors.Is(translate(err), ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return c.l.DomainSnapshotDelete(s, 0)
	})
}

// Snapshots returns the names of the snapshots libvirt knows of a domain.
func (c *Conn) Snapshots(ctx context.Context, name string) ([]string, error) {
	var out []string
	err := c.withDomain(ctx, name, func(d libvirt.Domain) error {
		ss, _, err := c.l.DomainListAllSnapshots(d, 1, 0)
		for _, s := range ss {
			out = append(out, s.Name)
		}
		return err
	})
	return out, err
}

// Metadata returns the element of this namespace in a domain's metadata; "" if there is
// none.
func (c *Conn) Metadata(ctx context.Context, name, uri string) (string, error) {
	var out string
	err := c.withDomain(ctx, name, func(d libvirt.Domain) (err error) {
		out, err = c.l.DomainGetMetadata(d, int32(libvirt.DomainMetadataElement), libvirt.OptString{uri}, libvirt.DomainAffectConfig)
		if isCode(err, libvirt.ErrNoDomainMetadata) {
			out, err = "", nil
		}
		return err
	})
	return out, err
}

// SetMetadata replaces the element of this namespace in a domain's metadata, in the
// definition and, if the domain runs, in the running domain. Nothing else changes.
func (c *Conn) SetMetadata(ctx context.Context, name, prefix, uri, element string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		flags := libvirt.DomainAffectConfig
		if st, _, err := c.l.DomainGetState(d, 0); err != nil {
			return err
		} else if state(st) != Off {
			flags |= libvirt.DomainAffectLive
		}
		return c.l.DomainSetMetadata(d, int32(libvirt.DomainMetadataElement), libvirt.OptString{element}, libvirt.OptString{prefix}, libvirt.OptString{uri}, flags)
	})
}

// maxRead is the maximum size of one ReadVolume, in bytes.
const maxRead = 4 << 20

// ReadVolume returns n bytes of the volume file at path, starting at offset in the file;
// ErrNotFound if no pool has that file.
func (c *Conn) ReadVolume(ctx context.Context, path string, offset, n uint64) ([]byte, error) {
	if n > maxRead {
		return nil, fmt.Errorf("reading %d bytes of %s at once: the limit is %d", n, path, maxRead)
	}
	w := exact{missing: n}
	err := c.do(ctx, func() error {
		v, err := c.l.StorageVolLookupByPath(path)
		if err != nil {
			return err
		}
		return c.l.StorageVolDownload(v, &w, offset, n, 0)
	})
	if err == nil && w.missing > 0 {
		err = fmt.Errorf("%d bytes are missing", w.missing)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s at %d: %w", path, offset, err)
	}
	return w.b, nil
}

// exact is a writer that keeps the first bytes it gets, up to the number requested, and
// drops the rest.
type exact struct {
	b       []byte
	missing uint64
}

func (e *exact) Write(p []byte) (int, error) {
	take := min(uint64(len(p)), e.missing)
	e.b = append(e.b, p[:take]...)
	e.missing -= take
	return len(p), nil
}
