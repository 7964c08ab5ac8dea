package virt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/pause"
	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// Volume is one file in a directory pool. Sizes are bytes.
type Volume struct {
	Name, Path           string
	Format               string
	Capacity, Allocation uint64
	Backing              string
	Modified             time.Time // zero if libvirt does not say
}

// Pool is a directory pool with its volumes.
type Pool struct {
	Libvirt    URI // the libvirt that has it
	Name, Path string
	Active     bool
	// Open is set for a pool of aivm whose directory other users can enter. EnsurePool
	// closes it.
	Open    bool
	Volumes map[string]Volume
}

// PoolAt returns the directory pool whose target is path, refreshed, with its volumes. The
// error is ErrNotFound if no pool has that target, and ErrBusy if libvirt could not
// refresh the pool within refreshLimit.
func (c *Conn) PoolAt(ctx context.Context, path string) (*Pool, error) {
	var out *Pool
	err := c.inPool(ctx, func() error {
		pools, _, err := c.l.ConnectListAllStoragePools(1, 0)
		if err != nil {
			return err
		}
		for _, p := range pools {
			desc, err := c.l.StoragePoolGetXMLDesc(p, 0)
			if errors.Is(translate(err), ErrNotFound) {
				continue // removed since it was listed
			}
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
			out = &Pool{Libvirt: c.uri, Name: x.Name, Path: path, Volumes: map[string]Volume{}}
			return c.fillPool(ctx, p, out)
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

// poolPath returns the target path of a pool, "" if it has none.
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

// fillPool refreshes an active pool and reads its mode and volumes into out.
func (c *Conn) fillPool(ctx context.Context, p libvirt.StoragePool, out *Pool) error {
	active, err := c.l.StoragePoolIsActive(p)
	if err != nil || active == 0 {
		return err
	}
	out.Active = true
	if err := c.refresh(ctx, p); err != nil {
		return err
	}
	if err := c.fillMode(p, out); err != nil {
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
		if x.Target != nil && x.Target.Timestamps != nil {
			k.Modified = timestamp(x.Target.Timestamps.Mtime)
		}
		out.Volumes[k.Name] = k
	}
	return nil
}

// refreshLimit is how long refresh retries while the pool is busy. Creating a volume
// without content, which is what aivm does, takes only a moment.
const refreshLimit = 10 * time.Second

// refresh makes libvirt read the pool's directory again. libvirt refuses that while a
// volume is being created in the pool, with no more specific code than "internal error"
// (storagePoolRefresh in libvirt 9.0).
func (c *Conn) refresh(ctx context.Context, p libvirt.StoragePool) error {
	for start := time.Now(); ; {
		err := busyIf(libvirt.ErrInternalError, c.l.StoragePoolRefresh(p, 0))
		if !errors.Is(err, ErrBusy) || time.Since(start) > refreshLimit {
			return err
		}
		if err := pause.For(ctx, betweenTries); err != nil {
			return err
		}
	}
}

// busyIf wraps err in ErrBusy if libvirt returned this code.
func busyIf(code libvirt.ErrorNumber, err error) error {
	if isCode(err, code) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// betweenTries is the wait before a busy object is tried again.
const betweenTries = 100 * time.Millisecond

// timestamp parses libvirt's "SECONDS.NANOSECONDS" since 1970; the zero time if it is
// invalid.
func timestamp(s string) time.Time {
	sec, nsec, _ := strings.Cut(s, ".")
	seconds, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}
	}
	nanos, _ := strconv.ParseInt((nsec + "000000000")[:9], 10, 64)
	return time.Unix(seconds, nanos)
}

// ensureTries is how often EnsurePool tries. A step can fail because another process
// makes the same pool at the same time; at the next try that process is past the step.
const ensureTries = 5

// errForeignPool marks an error that another try does not fix.
var errForeignPool = errors.New("not aivm's")

// EnsurePool creates a directory pool at path, and the directory. The pool is active,
// starts with the daemon, and only root and QEMU can enter its directory. An existing pool
// is started, and closed to other users if it is aivm's. Several processes may do this at
// the same time.
func (c *Conn) EnsurePool(ctx context.Context, name, path string) error {
	for try := 1; ; try++ {
		err := c.ensurePool(ctx, name, path)
		if err == nil || try == ensureTries || errors.Is(err, errForeignPool) || errors.Is(err, ErrNoDaemon) {
			return err
		}
		if err := pause.For(ctx, betweenTries); err != nil {
			return err
		}
	}
}

func (c *Conn) ensurePool(ctx context.Context, name, path string) error {
	return c.do(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(name)
		if errors.Is(translate(err), ErrNotFound) {
			perms, _, perr := c.poolPermissions()
			if perr != nil {
				return perr
			}
			x := libvirtxml.StoragePool{
				Type: "dir", Name: name,
				Target: &libvirtxml.StoragePoolTarget{Path: path, Permissions: perms},
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
			return fmt.Errorf("storage pool %q is %w: its directory is %s, not %s", name, errForeignPool, at, path)
		}
		running, err := c.l.StoragePoolIsActive(p)
		if err != nil {
			return err
		}
		active, err := c.closePool(p, running != 0)
		if err != nil {
			return err
		}
		if !active {
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

// NewVolume describes a volume to create. Mode is octal ("0600"). A qcow2 gets version 1.1:
// with libvirt's default, 0.10, space that the guest discards stays allocated, because 0.10
// cannot mark a cluster as zero, and libvirt has no checkpoints of the disk.
type NewVolume struct {
	Name, Format, Mode string
	Capacity           uint64 // bytes
	BackingPath        string // backing file, "" for none
	BackingFormat      string // format of the backing file
}

// CreateVolume creates a volume; ErrExists if there is one with that name.
func (c *Conn) CreateVolume(ctx context.Context, pool string, v NewVolume) error {
	x := libvirtxml.StorageVolume{
		Name:     v.Name,
		Capacity: &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: v.Capacity},
		Target: &libvirtxml.StorageVolumeTarget{
			Format:      &libvirtxml.StorageVolumeTargetFormat{Type: v.Format},
			Permissions: &libvirtxml.StorageVolumeTargetPermissions{Mode: v.Mode},
		},
	}
	switch v.Format {
	case "raw":
		x.Allocation = &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: 0}
	case "qcow2":
		x.Target.Compat = "1.1"
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
	err = c.inPool(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		_, err = c.l.StorageVolCreateXML(p, desc, 0)
		if isCode(err, libvirt.ErrStorageVolExist) {
			return fmt.Errorf("%w: %w", ErrExists, err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("creating volume %q: %w", v.Name, err)
	}
	return nil
}

// Upload writes size bytes of r into a volume; ErrBusy while the volume is being created.
func (c *Conn) Upload(ctx context.Context, pool, name string, r io.Reader, size uint64) error {
	err := c.inPool(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		v, err := c.l.StorageVolLookupByName(p, name)
		if err != nil {
			return err
		}
		return busyIf(libvirt.ErrOperationInvalid, c.l.StorageVolUpload(v, r, 0, size, 0))
	})
	if err != nil {
		return fmt.Errorf("uploading volume %q (%s bytes): %w", name, strconv.FormatUint(size, 10), err)
	}
	return nil
}

// WriteVolume overwrites the bytes of the volume file at path from offset on, with one
// message to libvirt, which writes it with one call: if this process is killed, all of b is
// written or nothing. The rest of the file does not change. ErrNotFound if no pool has that
// file, ErrBusy while the volume is being created or copied.
func (c *Conn) WriteVolume(ctx context.Context, path string, offset uint64, b []byte) error {
	err := c.do(ctx, func() error {
		v, err := c.l.StorageVolLookupByPath(path)
		if err != nil {
			return err
		}
		return busyIf(libvirt.ErrOperationInvalid, c.l.StorageVolUpload(v, bytes.NewReader(b), offset, uint64(len(b)), 0))
	})
	if err != nil {
		return fmt.Errorf("writing %d bytes of %s at %d: %w", len(b), path, offset, err)
	}
	return nil
}

// ReadTail returns the last n bytes of a volume. It is used for the serial log of a VM,
// which is in the pool so that a user in group libvirt can read it without sudo.
func (c *Conn) ReadTail(ctx context.Context, pool, name string, n uint64) ([]byte, error) {
	buf := capture.Head{Limit: 1 << 20}
	err := c.inPool(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		if err := c.refresh(ctx, p); err != nil {
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
	return buf.Bytes(), err
}

// DeleteVolume deletes a volume. A missing volume is not an error; one that is being
// created or copied is ErrBusy.
func (c *Conn) DeleteVolume(ctx context.Context, pool, name string) error {
	err := c.inPool(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		v, err := c.l.StorageVolLookupByName(p, name)
		if errors.Is(translate(err), ErrNotFound) {
			// libvirt finds a file it does not know yet (a log) after a refresh.
			if err := c.refresh(ctx, p); err != nil {
				return err
			}
			v, err = c.l.StorageVolLookupByName(p, name)
		}
		if err != nil {
			return err
		}
		return busyIf(libvirt.ErrOperationInvalid, c.l.StorageVolDelete(v, 0))
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("deleting volume %q: %w", name, err)
	}
	return nil
}
