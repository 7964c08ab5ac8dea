package virt

import (
	"context"
	"errors"
	"fmt"

	libvirt "github.com/digitalocean/go-libvirt"
)

// InactiveXML is the persistent definition of a domain as libvirt has it, word
// for word.
func (c *Conn) InactiveXML(ctx context.Context, name string) (string, error) {
	var out string
	err := c.withDomain(ctx, name, func(d libvirt.Domain) (err error) {
		out, err = c.l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive|libvirt.DomainXMLSecure)
		return err
	})
	return out, err
}

// CreateSnapshot has libvirt make the snapshot desc describes.
func (c *Conn) CreateSnapshot(ctx context.Context, name, desc string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		_, err := c.l.DomainSnapshotCreateXML(d, desc, 0)
		return err
	})
}

// KnowSnapshot tells libvirt of a snapshot that is in the disk, replacing what
// it knew of it. The disk is not touched.
func (c *Conn) KnowSnapshot(ctx context.Context, name, snapshot, desc string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		// Over an old entry libvirt compares the two definitions and refuses a
		// VM that got a device since; a new one it takes.
		if err := c.forgetSnapshot(d, snapshot); err != nil {
			return err
		}
		_, err := c.l.DomainSnapshotCreateXML(d, desc, uint32(libvirt.DomainSnapshotCreateRedefine))
		return err
	})
}

// ForgetSnapshot takes a snapshot off libvirt's list and leaves the disk alone.
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

// RevertSnapshot puts the disk of a domain that is off back to a snapshot, and
// its definition to the one libvirt keeps with the snapshot.
func (c *Conn) RevertSnapshot(ctx context.Context, name, snapshot string) error {
	return c.withDomain(ctx, name, func(d libvirt.Domain) error {
		s, err := c.l.DomainSnapshotLookupByName(d, snapshot, 0)
		if err != nil {
			return err
		}
		return c.l.DomainRevertToSnapshot(s, 0)
	})
}

// DeleteSnapshot removes a snapshot, from the disk too. One that libvirt does
// not know is no error.
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

// Metadata returns the element of this namespace in a domain's metadata; ""
// when there is none.
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

// SetMetadata replaces the element of this namespace in a domain's metadata,
// in the definition and, if it runs, in the running domain: nothing else of
// either changes.
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

// maxRead bounds one ReadVolume.
const maxRead = 4 << 20

// ReadVolume reads n bytes of the volume that lies at path, as they are in the
// file; ErrNotFound when no pool has that file.
func (c *Conn) ReadVolume(ctx context.Context, path string, offset, n uint64) ([]byte, error) {
	if n > maxRead {
		return nil, fmt.Errorf("reading %d bytes of %s at once", n, path)
	}
	w := exact{left: n}
	err := c.do(ctx, func() error {
		v, err := c.l.StorageVolLookupByPath(path)
		if err != nil {
			return err
		}
		return c.l.StorageVolDownload(v, &w, offset, n, 0)
	})
	if err == nil && w.left > 0 {
		err = fmt.Errorf("%d bytes are missing", w.left)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s at %d: %w", path, offset, err)
	}
	return w.b, nil
}

// exact takes no more than what was asked for.
type exact struct {
	b    []byte
	left uint64
}

func (e *exact) Write(p []byte) (int, error) {
	take := min(uint64(len(p)), e.left)
	e.b = append(e.b, p[:take]...)
	e.left -= take
	return len(p), nil
}
