package machine

import (
	"context"
	"errors"
	"net/netip"
	"os"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
)

// PoolForDeletion returns the storage pool at dir, and starts it if necessary: the volumes of an
// inactive pool are unknown, not absent. nil: there is neither a pool nor the directory.
func (e Part) PoolForDeletion(ctx context.Context, l *virt.Conn, dir string) (*virt.Pool, error) {
	pool, err := l.PoolAt(ctx, dir)
	if err != nil && !errors.Is(err, virt.ErrNotFound) {
		return nil, err
	}
	if pool != nil && pool.Active {
		return pool, nil
	}
	if _, serr := os.Stat(dir); pool == nil && errors.Is(serr, os.ErrNotExist) {
		return nil, nil
	}
	if e.DryRun {
		return nil, ui.Refused("the storage pool at %s is not active, so its volumes are not known", dir).Hint(ui.Cmd(e.Virsh("pool-list --all")))
	}
	if err := l.EnsurePool(ctx, domain.PoolFor(pool, dir, session.DefaultBaseDir), dir); err != nil {
		return nil, err
	}
	return l.PoolAt(ctx, dir)
}

// Reservation returns the DHCP reservation of a VM in its network, if there is one.
func Reservation(n *virt.Network, mac string) (virt.Reservation, bool) {
	if n == nil {
		return virt.Reservation{}, false
	}
	ip, ok, err := network.Address(config.NetworkSpec{SubnetCIDR: n.Subnet.String()}, n, mac)
	if err != nil || !ok {
		return virt.Reservation{}, false
	}
	for _, h := range n.Hosts {
		if h.IP == ip {
			return h, true
		}
	}
	return virt.Reservation{MAC: mac, IP: netip.Addr(ip)}, true
}
