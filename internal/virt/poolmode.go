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

// ownPoolName is the name of aivm's pools, or its part before a "-".
const ownPoolName = "aivm"

// openPool reports whether x is a pool of aivm whose directory users other than root and
// QEMU can enter. It is false for all other pools, whose mode aivm does not change.
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

// fillMode sets out.Open. libvirt knows the directory's mode only after a refresh.
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

// poolPermissions returns the mode for a pool's directory: root can list it, QEMU's group
// can enter it, others can do neither. If libvirt does not report QEMU's group, all users
// can enter the directory, since QEMU could not reach its disks otherwise; the modes of
// the files protect them then. closed is true in the first case.
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

// qemuGroup finds the group of QEMU processes in libvirt's capabilities: the "+UID:+GID" of
// the DAC security model.
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

// closePool gives the directory of an open pool of aivm the mode of a new pool. libvirt
// changes the mode only while the pool is stopped. That does not affect VMs, whose disks
// are named by path. libvirt refuses the stop while a volume is being created (ErrBusy).
// closePool reports whether the pool is active afterwards.
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
	// Keep the owner.
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

// inPool runs calls on a pool and its volumes. It repeats them while another run has
// stopped the pool to change its mode. A call that libvirt refuses for that reason has had
// no effect.
func (c *Conn) inPool(ctx context.Context, f func() error) error {
	return c.do(ctx, func() error { return retryStopped(ctx, f) })
}

// retryStopped repeats f while libvirt reports that the pool is not active.
func retryStopped(ctx context.Context, f func() error) error {
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

// stoppedTries, with betweenTries, adds up to one second. Stopping, changing the mode and
// starting take a few milliseconds.
const stoppedTries = 10
