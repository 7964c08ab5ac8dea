package virt

import (
	"context"
	"fmt"
)

// Versions are libvirt's own and the hypervisor's: "9.0.0", "7.2.22".
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

// version takes libvirt's numbers apart: a million a major one, a thousand a
// minor one.
func version(n uint64) string { return fmt.Sprintf("%d.%d.%d", n/1e6, n/1e3%1e3, n%1e3) }
