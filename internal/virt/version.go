package virt

import (
	"context"
	"fmt"
)

// Versions returns the versions of libvirt and of the hypervisor: "9.0.0", "7.2.22".
func (c *Conn) Versions(ctx context.Context) (library, hypervisor string, err error) {
	err = c.do(ctx, func() error {
		lib, err := c.l.ConnectGetLibVersion()
		if err != nil {
			return err
		}
		hv, err := c.l.ConnectGetVersion()
		library, hypervisor = version(lib), version(hv)
		return err
	})
	return library, hypervisor, err
}

// version formats a libvirt version number: major * 1000000 + minor * 1000 + micro.
func version(n uint64) string { return fmt.Sprintf("%d.%d.%d", n/1e6, n/1e3%1e3, n%1e3) }
