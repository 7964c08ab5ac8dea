package config

import (
	"strings"
	"testing"

	"aivm.dev/aivm/internal/virt"
)

// TestLibvirtURIIsWrittenOnlyIfNotDefault checks that libvirt_uri is not written with its default
// value, and that a record without it means the system's libvirt, whatever [defaults] has.
func TestLibvirtURIIsWrittenOnlyIfNotDefault(t *testing.T) {
	const own = "qemu+unix:///system?socket=/run/own"
	path := write(t, "[defaults.vm]\nlibvirt_uri = \"qemu:///system\"\n[[vms]]\nname = \"old\"\n[[vms]]\nname = \"empty\"\n[vms.vm]\nlibvirt_uri = \"\"\n")
	newVM := func(name string) func(*Config) {
		return func(c *Config) { c.UpsertVM(c.NewVM(name, "n")) }
	}
	update(t, path, newVM("same"))
	if text := read(t, path); strings.Count(text, "libvirt_uri") != 2 {
		t.Errorf("written although it is the default:\n%s", text)
	}
	update(t, path, func(c *Config) { c.Defaults.VM.LibvirtURI = own })
	update(t, path, newVM("new"))
	text := read(t, path)
	if n := strings.Count(text, "libvirt_uri = \""+own+"\"\n"); n != 2 {
		t.Errorf("%d times:\n%s", n, text)
	}
	c := mustLoad(t, path).Config
	for vm, want := range map[string]string{"old": virt.SystemURI, "empty": virt.SystemURI, "same": virt.SystemURI, "new": own, "none": own} {
		if u, err := c.LibvirtOf(vm); err != nil || u.String() != want {
			t.Errorf("%s: %s, %v", vm, u, err)
		}
	}
	update(t, path, func(c *Config) { vmNamed(c, "new").VM.LibvirtURI = virt.SystemURI })
	if u, err := mustLoad(t, path).Config.LibvirtOf("new"); err != nil || u != (virt.URI{}) {
		t.Errorf("%s, %v", u, err)
	}
}

// TestLibvirtOfANewerStore checks that a libvirt URI which only a newer aivm supports can be read,
// and is refused when it is used.
func TestLibvirtOfANewerStore(t *testing.T) {
	s := mustLoad(t, write(t, "schema_version = 9\n[[vms]]\nname = \"far\"\n[vms.vm]\nlibvirt_uri = \"qemu+ssh://h/system\"\n"))
	if len(s.Warnings) == 0 {
		t.Error("no warning")
	}
	_, err := s.Config.LibvirtOf("far")
	if err == nil || !strings.Contains(err.Error(), "libvirt_uri of VM far must be qemu:///system") {
		t.Error(err)
	}
}
