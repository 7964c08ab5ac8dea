package virt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/pause"
	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// ownPoolName is the name, or the beginning of the name, of a pool that aivm
// made; others have a mode that their owner chose.
const ownPoolName = "aivm"

// openPool reports whether users other than root and QEMU can enter the
// directory of a pool of aivm's. A pool of somebody else's is never open in
// this sense: aivm does not change its mode.
func openPool(x libvirtxml.StoragePool) bool {
	if x.Name != ownPoolName && !strings.HasPrefix(x.Name, ownPoolName+"-") {
		return false
	}
	if x.Target == nil || x.Target.Permissions == nil {
		return false
	}
	mode, err := strconv.ParseUint(x.Target.Permissions.Mode, 8, 32)
	return err == nil && mode&0o027 != 0
}

// fillMode says whether the directory of a pool is open; libvirt knows its mode
// after a refresh.
func (c *Conn) fillMode(p libvirt.StoragePool, out *Pool) error {
	desc, err := c.l.StoragePoolGetXMLDesc(p, 0)
	if err != nil {
		return err
	}
	var x libvirtxml.StoragePool
	if err := x.Unmarshal(desc); err != nil {
		return fmt.Errorf("reading pool XML: %w", err)
	}
	if !openPool(x) {
		return nil
	}
	_, out.Open, err = c.poolPermissions()
	return err
}

// poolPermissions returns the mode of a pool's directory: root lists it, the
// group QEMU runs with enters it, nobody else does either. Without that group
// QEMU could not reach its disks, so where libvirt does not name it the
// directory can be entered by all, and the files in it are closed by their own
// modes. closed says which of the two it is.
func (c *Conn) poolPermissions() (p *libvirtxml.StoragePoolTargetPermissions, closed bool, err error) {
	desc, err := c.l.ConnectGetCapabilities()
	if err != nil {
		return nil, false, err
	}
	gid, ok := qemuGroup(desc)
	if !ok {
		return &libvirtxml.StoragePoolTargetPermissions{Mode: "0711"}, false, nil
	}
	return &libvirtxml.StoragePoolTargetPermissions{Mode: "0710", Group: gid}, true, nil
}

// qemuGroup reads from libvirt's capabilities the group that QEMU processes
// run with: the "+UID:+GID" of the DAC security model.
func qemuGroup(capabilities string) (gid string, ok bool) {
	var x struct {
		Models []libvirtxml.CapsHostSecModel `xml:"host>secmodel"`
	}
	if err := xml.Unmarshal([]byte(capabilities), &x); err != nil {
		return "", false
	}
	for _, m := range x.Models {
		if m.Name != "dac" {
			continue
		}
		for _, l := range m.Labels {
			uid, group, _ := strings.Cut(l.Value, ":")
			group = strings.TrimPrefix(group, "+")
			if _, err := strconv.ParseUint(group, 10, 32); err == nil && strings.HasPrefix(uid, "+") {
				return group, true
			}
		}
	}
	return "", false
}

// closePool gives the directory of an open pool of aivm's the mode of a new
// one. libvirt changes it only while the pool is stopped, which disturbs
// no VM: their disks are named by path. The stop is refused while a volume is
// being made (ErrBusy). It reports whether the pool is active afterwards.
func (c *Conn) closePool(p libvirt.StoragePool, active bool) (stillActive bool, err error) {
	desc, err := c.l.StoragePoolGetXMLDesc(p, 0)
	if err != nil {
		return active, err
	}
	var x libvirtxml.StoragePool
	if err := x.Unmarshal(desc); err != nil {
		return active, fmt.Errorf("reading pool XML: %w", err)
	}
	if !openPool(x) {
		return active, nil
	}
	perms, closed, err := c.poolPermissions()
	if err != nil || !closed {
		return active, err
	}
	// The owner stays who it is.
	perms.Owner = x.Target.Permissions.Owner
	y := libvirtxml.StoragePool{
		Type: x.Type, Name: x.Name, UUID: x.UUID,
		Target: &libvirtxml.StoragePoolTarget{Path: x.Target.Path, Permissions: perms},
	}
	desc, err = y.Marshal()
	if err != nil {
		return active, err
	}
	if _, err := c.l.StoragePoolDefineXML(desc, 0); err != nil {
		return active, err
	}
	if active {
		if err := busyIf(libvirt.ErrInternalError, c.l.StoragePoolDestroy(p)); err != nil {
			return active, err
		}
	}
	return false, nil
}

// inPool runs calls on a pool and its volumes. They are repeated while the pool
// is stopped for the moment in which another run changes its mode; a call that
// libvirt refuses for that has done nothing.
func (c *Conn) inPool(ctx context.Context, f func() error) error {
	return c.do(ctx, func() error { return whileStopped(ctx, f) })
}

func whileStopped(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		var le libvirt.Error
		if try == stoppedTries || !errors.As(err, &le) || libvirt.ErrorNumber(le.Code) != libvirt.ErrOperationInvalid || !strings.Contains(le.Message, "is not active") {
			return err
		}
		if perr := pause.For(ctx, betweenTries); perr != nil {
			return errors.Join(err, perr)
		}
	}
}

// stoppedTries is a second: stop, change of mode and start take a few
// milliseconds.
const stoppedTries = 10
