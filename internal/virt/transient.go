package virt

import (
	"context"
	"fmt"
	"io"

	libvirt "github.com/digitalocean/go-libvirt"
)

// Boot starts a transient domain: libvirt keeps no definition of it, and it no longer
// exists once it is off.
func (c *Conn) Boot(ctx context.Context, desc string) error {
	return c.do(ctx, func() error {
		_, err := c.l.DomainCreateXML(desc, libvirt.DomainStartValidate)
		return err
	})
}

// Download copies the complete file of a volume to w.
func (c *Conn) Download(ctx context.Context, pool, name string, w io.Writer) error {
	err := c.inPool(ctx, func() error {
		p, err := c.l.StoragePoolLookupByName(pool)
		if err != nil {
			return err
		}
		v, err := c.l.StorageVolLookupByName(p, name)
		if err != nil {
			return err
		}
		return busyIf(libvirt.ErrOperationInvalid, c.l.StorageVolDownload(v, w, 0, 0, 0))
	})
	if err != nil {
		return fmt.Errorf("downloading volume %q: %w", name, err)
	}
	return nil
}
