package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// Clone returns a deep copy of c.
func (c *Config) Clone() Config {
	return deepCopy(reflect.ValueOf(*c)).Interface().(Config)
}

// FindVM returns the VM named name; the pointer is into c.
func (c *Config) FindVM(name string) (*VM, bool) {
	for i := range c.VMs {
		if c.VMs[i].Name == name {
			return &c.VMs[i], true
		}
	}
	return nil, false
}

// FindNetwork returns the network named name; the pointer is into c.
func (c *Config) FindNetwork(name string) (*Network, bool) {
	for i := range c.Networks {
		if c.Networks[i].Name == name {
			return &c.Networks[i], true
		}
	}
	return nil, false
}

// FindAttachment returns the attachment of folder hostPath to a VM; the pointer is into c.
func (c *Config) FindAttachment(hostPath, vm string) (*Attachment, bool) {
	for i := range c.Attachments {
		if c.Attachments[i].VMName == vm && filepath.Clean(c.Attachments[i].HostPath) == filepath.Clean(hostPath) {
			return &c.Attachments[i], true
		}
	}
	return nil, false
}

// LibvirtOf returns the libvirt URI of the VM name: that of its record or, if it has none, the one
// new VMs are created with.
func (c *Config) LibvirtOf(name string) (virt.URI, error) {
	if vm, ok := c.FindVM(name); ok {
		return vm.VM.Libvirt()
	}
	return c.Defaults.VM.Libvirt()
}

// NetworkOf returns the network a VM uses.
func (c *Config) NetworkOf(vm *VM) (*Network, error) {
	if n, ok := c.FindNetwork(vm.NetworkName); ok {
		return n, nil
	}
	return nil, ui.Refused("VM %q uses network %q, which is not in the config", vm.Name, vm.NetworkName).
		Hint(ui.Cmd("aivm config edit"))
}

// VMNames lists the VMs in the order of the file.
func (c *Config) VMNames() []string {
	names := make([]string, 0, len(c.VMs))
	for i := range c.VMs {
		names = append(names, c.VMs[i].Name)
	}
	return names
}

// NetworkUsers lists the VMs that use a network, in the order of the file.
func (c *Config) NetworkUsers(network string) []string {
	var names []string
	for i := range c.VMs {
		if c.VMs[i].NetworkName == network {
			names = append(names, c.VMs[i].Name)
		}
	}
	return names
}

// VMAttachments lists the folders of a VM in the order of the file.
func (c *Config) VMAttachments(vm string) []Attachment {
	var found []Attachment
	for _, a := range c.Attachments {
		if a.VMName == vm {
			found = append(found, a)
		}
	}
	return found
}

// NewVM returns a VM record with the values of [defaults]; it is not added to c.
func (c *Config) NewVM(name, network string) VM {
	d := c.Clone().Defaults
	vm := VM{
		Name: name, NetworkName: network, VM: d.VM,
		Image: d.Image, Provision: d.Provision, Sync: d.Sync, Paths: d.Paths,
	}
	vm.VM.Name = name
	if vm.VM.LibvirtURI == virt.SystemURI {
		vm.VM.LibvirtURI = "" // the default is not recorded
	}
	return vm
}

// NewNetwork returns a network record with the values of [defaults]; it is not added to c.
func (c *Config) NewNetwork(name string) Network {
	d := c.Clone().Defaults
	n := Network{Name: name, Network: d.Network, Firewall: d.Firewall}
	n.Network.Name = name
	return n
}

// UpsertVM replaces the VM of the same name or appends vm. It does not change active_vm.
func (c *Config) UpsertVM(vm VM) {
	if have, ok := c.FindVM(vm.Name); ok {
		*have = vm
		return
	}
	c.VMs = append(c.VMs, vm)
}

// UpsertNetwork replaces the network of the same name or appends n.
func (c *Config) UpsertNetwork(n Network) {
	if have, ok := c.FindNetwork(n.Name); ok {
		*have = n
		return
	}
	c.Networks = append(c.Networks, n)
}

// UpsertAttachment replaces the attachment of the same folder and VM or appends a.
func (c *Config) UpsertAttachment(a Attachment) {
	if have, ok := c.FindAttachment(a.HostPath, a.VMName); ok {
		// Keep the spelling in the file: it identifies the record.
		a.HostPath = have.HostPath
		*have = a
		return
	}
	c.Attachments = append(c.Attachments, a)
}

// RemoveVM removes a VM and its attachments, and clears active_vm if it names the VM. It reports
// whether the VM had a record.
func (c *Config) RemoveVM(name string) bool {
	n := len(c.VMs)
	c.VMs = slices.DeleteFunc(c.VMs, func(vm VM) bool { return vm.Name == name })
	c.Attachments = slices.DeleteFunc(c.Attachments, func(a Attachment) bool { return a.VMName == name })
	if c.ActiveVM == name {
		c.ActiveVM = ""
	}
	return len(c.VMs) != n
}

// RemoveNetwork removes a network, whether or not VMs use it, and reports whether it had a record.
func (c *Config) RemoveNetwork(name string) bool {
	n := len(c.Networks)
	c.Networks = slices.DeleteFunc(c.Networks, func(x Network) bool { return x.Name == name })
	return len(c.Networks) != n
}

// RemoveAttachment removes the attachment of a folder to a VM and reports whether there was one. The
// folder need not exist.
func (c *Config) RemoveAttachment(hostPath, vm string) bool {
	n := len(c.Attachments)
	c.Attachments = slices.DeleteFunc(c.Attachments, func(a Attachment) bool {
		return a.VMName == vm && filepath.Clean(a.HostPath) == filepath.Clean(hostPath)
	})
	return len(c.Attachments) != n
}

func deepCopy(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			out.Field(i).Set(deepCopy(v.Field(i)))
		}
	case reflect.Slice:
		if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				out.Index(i).Set(deepCopy(v.Index(i)))
			}
		}
	default:
		out.Set(v)
	}
	return out
}

// same compares two values of the schema; a nil and an empty list are equal.
func same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.String:
		return a.String() == b.String()
	case reflect.Int:
		return a.Int() == b.Int()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	}
	panic(fmt.Sprintf("config: type %s is not supported in the schema", a.Type()))
}
