package qemu

import (
	"context"
	"fmt"
	"os"
	"regexp"
)

var tagForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)

// slot returns a spare PCI slot.
func (v *VM) slot() (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.used == v.slots {
		return "", fmt.Errorf("all %d spare slots of the VM are in use", v.slots)
	}
	v.used++
	return slotID(v.used - 1), nil
}

// HotplugNIC adds a network card. It takes over the socket, also when it fails.
func (v *VM) HotplugNIC(ctx context.Context, n NIC) error {
	if n.Socket != nil {
		defer n.Socket.Close()
	}
	err := n.check()
	if err != nil {
		return err
	}
	bus, err := v.slot()
	if err != nil {
		return err
	}
	if err := v.qmp.give(ctx, "net0", int(n.Socket.Fd())); err != nil {
		return fmt.Errorf("adding a network card: %w", err)
	}
	// Not "stream": QEMU 7.2 accepts it with a descriptor's name and then sends nothing.
	link := map[string]any{"id": "net0", "type": "socket", "fd": "net0"}
	if err := v.do(ctx, "netdev_add", link, nil); err != nil {
		return fmt.Errorf("adding a network card: %w", err)
	}
	err = v.do(ctx, "device_add", map[string]any{
		"driver": "virtio-net-pci", "netdev": "net0", "id": "nic0", "bus": bus, "mac": n.MAC, "host_mtu": n.MTU, "romfile": "",
	}, nil)
	if err != nil {
		return fmt.Errorf("adding a network card: %w", err)
	}
	return nil
}

// HotplugFS adds a virtiofs device whose server is at the other end of socket. The
// guest's memory must be shared (ShareRAM). It takes over the socket, also when it
// fails.
func (v *VM) HotplugFS(ctx context.Context, tag string, socket *os.File) error {
	defer socket.Close()
	if !tagForm.MatchString(tag) {
		return fmt.Errorf("%q is not a tag", tag)
	}
	bus, err := v.slot()
	if err != nil {
		return err
	}
	if err := v.qmp.give(ctx, tag, int(socket.Fd())); err != nil {
		return fmt.Errorf("adding a folder: %w", err)
	}
	err = v.do(ctx, "chardev-add", map[string]any{"id": tag, "backend": map[string]any{"type": "socket", "data": map[string]any{
		"server": false, "addr": map[string]any{"type": "fd", "data": map[string]any{"str": tag}},
	}}}, nil)
	if err == nil {
		err = v.do(ctx, "device_add", map[string]any{
			"driver": "vhost-user-fs-pci", "chardev": tag, "id": "fs-" + tag, "tag": tag, "bus": bus, "queue-size": 1024,
		}, nil)
	}
	if err != nil {
		return fmt.Errorf("adding a folder: %w", err)
	}
	return nil
}
