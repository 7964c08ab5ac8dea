package virt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// Volume is one file in a directory pool. Sizes are bytes.
type Volume struct {
	Name, Path           string
	Format               string
	Capacity, Allocation uint64
	Backing              string
}

// Pool is a directory pool and what lies in it.
type Pool struct {
	Name, Path string
	Active     bool
	Volumes    map[string]Volume
	Free       uint64 // bytes
}

// PoolAt finds the directory pool whose target is path, refreshed, with its
// volumes; ErrNotFound when no pool has that target.
func (c *Conn) PoolAt(ctx context.Context, path string) (*Pool, error) {
	var out *Pool
	err := c.do(ctx, func() error {
		pools, _, err := c.l.ConnectListAllStoragePools(1, 0)
		if err != nil {
			return err
		}
		for _, p := range pools {
			desc, err := c.l.StoragePoolGetXMLDesc(p, 0)
			if err != nil {
				return err
			}
			var x libvirtxml.StoragePool
			if err := x.Unmarshal(desc); err != nil {
				return fmt.Errorf("reading pool XML: %w", err)
			}
			if x.Target == nil || x.Target.Path != path {
				continue
			}
			out = &Pool{Name: x.Name, Path: path, Volumes: map[string]Volume{}}
			if x.Available != nil {
				out.Free = x.Available.Value
			}
			return c.fillPool(p, out)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("storage pool at %q: %w", path, err)
	}
	if out == nil {
		return nil, fmt.Errorf("storage pool at %q: %w", path, ErrNotFound)
	}
	return out, nil
}

func (c *Conn) poolPath(p libvirt.StoragePool) (string, error) {
	desc, err := c.l.StoragePoolGetXMLDesc(p, 0)
	if err != nil {
		return "", err
	}
	var x libvirtxml.StoragePool
	if err := x.Unmarshal(desc); err != nil {
		return "", fmt.Errorf("reading pool XML: %w", err)
	}
	if x.Target == nil {
		return "", nil
	}
	return x.Target.Path, nil
}

func (c *Conn) fillPool(p libvirt.StoragePool, out *Pool) error {
	active, err := c.l.StoragePoolIsActive(p)
	if err != nil || active == 0 {
		return err
	}
	out.Active = true
	if err := c.l.StoragePoolRefresh(p, 0); err != nil {
		return err
	}
	vols, _, err := c.l.StoragePoolListAllVolumes(p, 1, 0)
	if err != nil {
		return err
	}
	for _, v := range vols {
		desc, err := c.l.StorageVolGetXMLDesc(v, 0)
		if err != nil {
			if errors.Is(translate(err), ErrNotFound) {
				continue
			}
			return err
		}
		var x libvirtxml.StorageVolume
		if err := x.Unmarshal(desc); err != nil {
			return fmt.Errorf("reading volume XML: %w", err)
		}
		k := Volume{Name: x.Name}
		if x.Target != nil {
			k.Path = x.Target.Path
			if x.Target.Format != nil {
				k.Format = x.Target.Format.Type
			}
		}
		if x.Capacity != nil {
			k.Capacity = x.Capacity.Value
		}
		if x.Allocation != nil {
			k.Allocation = x.Allocation.Value
		}
		if x.BackingStore != nil {
			k.Backing = x.BackingStore.Path
		}
		out.Volumes[k.Name] = k
	}
	return nil
}

// EnsurePool makes a directory pool at path (the directory too), active and
// started with the daemon. A pool that is already there is started.
func (c *Conn) EnsurePool(ctx context.Context, name, path string) error {
	return c.do(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(name)
		if errors.Is(translate(err), ErrNotFound) {
			x := libvirtxml.StoragePool{
				Type: "dir", Name: name,
				Target: &libvirtxml.StoragePoolTarget{
					Path: path,
					// Traversable for QEMU's user, listable by nobody but root.
					Permissions: &libvirtxml.StoragePoolTargetPermissions{Mode: "0711"},
				},
			}
			desc, merr := x.Marshal()
			if merr != nil {
				return merr
			}
			p, err = c.l.StoragePoolDefineXML(desc, 0)
		}
		if err != nil {
			return err
		}
		if at, err := c.poolPath(p); err != nil {
			return err
		} else if at != path {
			return fmt.Errorf("a storage pool %q that is not aivm's keeps its volumes in %s, not in %s", name, at, path)
		}
		active, err := c.l.StoragePoolIsActive(p)
		if err != nil {
			return err
		}
		if active == 0 {
			if err := c.l.StoragePoolBuild(p, 0); err != nil {
				return err
			}
			if err := c.l.StoragePoolCreate(p, 0); err != nil {
				return err
			}
		}
		return c.l.StoragePoolSetAutostart(p, 1)
	})
}

// NewVolume describes a volume to be made. Mode is octal ("0600").
type NewVolume struct {
	Name, Format, Mode string
	Capacity           uint64
	BackingPath        string // with Format of the backing file "qcow2"
	BackingFormat      string
}

// CreateVolume makes a volume. One of that name must not exist.
func (c *Conn) CreateVolume(ctx context.Context, pool string, v NewVolume) error {
	x := libvirtxml.StorageVolume{
		Name:     v.Name,
		Capacity: &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: v.Capacity},
		Target: &libvirtxml.StorageVolumeTarget{
			Format:      &libvirtxml.StorageVolumeTargetFormat{Type: v.Format},
			Permissions: &libvirtxml.StorageVolumeTargetPermissions{Mode: v.Mode},
		},
	}
	if v.Format == "raw" {
		x.Allocation = &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: 0}
	}
	if v.BackingPath != "" {
		x.BackingStore = &libvirtxml.StorageVolumeBackingStore{
			Path:   v.BackingPath,
			Format: &libvirtxml.StorageVolumeTargetFormat{Type: v.BackingFormat},
		}
	}
	desc, err := x.Marshal()
	if err != nil {
		return err
	}
	err = c.do(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		_, err = c.l.StorageVolCreateXML(p, desc, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("creating volume %q: %w", v.Name, err)
	}
	return nil
}

// Upload writes size bytes of r into a volume.
func (c *Conn) Upload(ctx context.Context, pool, name string, r io.Reader, size uint64) error {
	err := c.do(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		v, err := c.l.StorageVolLookupByName(p, name)
		if err != nil {
			return err
		}
		return c.l.StorageVolUpload(v, r, 0, size, 0)
	})
	if err != nil {
		return fmt.Errorf("uploading volume %q (%s bytes): %w", name, strconv.FormatUint(size, 10), err)
	}
	return nil
}

// ReadTail returns the last n bytes of a volume; the serial log of a VM lies
// in the pool, so that a user in group libvirt can read it without sudo.
func (c *Conn) ReadTail(ctx context.Context, pool, name string, n uint64) ([]byte, error) {
	var buf limitedBuffer
	err := c.do(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		if err := c.l.StoragePoolRefresh(p, 0); err != nil {
			return err
		}
		v, err := c.l.StorageVolLookupByName(p, name)
		if err != nil {
			return err
		}
		_, capacity, _, err := c.l.StorageVolGetInfo(v)
		if err != nil {
			return err
		}
		off := uint64(0)
		if capacity > n {
			off = capacity - n
		}
		if capacity == 0 {
			return nil
		}
		return c.l.StorageVolDownload(v, &buf, off, capacity-off, 0)
	})
	return buf.b, err
}

type limitedBuffer struct{ b []byte }

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if room := 1<<20 - len(l.b); room > 0 {
		l.b = append(l.b, p[:min(len(p), room)]...)
	}
	return len(p), nil
}

// DeleteVolume removes a volume; one that is not there is no error.
func (c *Conn) DeleteVolume(ctx context.Context, pool, name string) error {
	err := c.do(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		v, err := c.l.StorageVolLookupByName(p, name)
		if errors.Is(translate(err), ErrNotFound) {
			// A file libvirt has not seen yet (a log) shows after a refresh.
			if err := c.l.StoragePoolRefresh(p, 0); err != nil {
				return err
			}
			v, err = c.l.StorageVolLookupByName(p, name)
		}
		if err != nil {
			return err
		}
		return c.l.StorageVolDelete(v, 0)
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("deleting volume %q: %w", name, err)
	}
	return nil
}
