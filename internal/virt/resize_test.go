package virt

import (
	"strings"
	"testing"
)

func TestWithDiscard(t *testing.T) {
	const desc = `<domain><metadata><x:disk xmlns:x="u"><x:target dev="vda"/></x:disk></metadata><devices>
<disk type='file'><driver name='qemu' type='raw'/><source file='/a&amp;b'/><target dev='vdb'/></disk>
<disk type='file'><driver name='qemu' type='qcow2' discard='ignore' new='&lt;'/><!-- <driver> --><source file='/d'/><unknown a='1'/><target dev='vda' bus='virtio'/></disk>
<disk type='file'><driver name='qemu'></driver><target dev='vdc'/></disk><disk type='file'><target dev='vdd'/></disk></devices></domain>`
	for target, want := range map[string]string{
		"vda": `<disk type='file'><driver name='qemu' type='qcow2' new='&lt;' discard='unmap'/><!-- <driver> --><source file='/d'/><unknown a='1'/><target dev='vda' bus='virtio'/></disk>`,
		"vdb": `<disk type='file'><driver name='qemu' type='raw' discard='unmap'/><source file='/a&amp;b'/><target dev='vdb'/></disk>`,
		"vdc": `<disk type='file'><driver name='qemu' discard='unmap'></driver><target dev='vdc'/></disk>`,
	} {
		got, err := withDiscard(desc, target)
		if err != nil || got != want {
			t.Errorf("%s: %v\n%s", target, err, got)
		}
		if again, err := withDiscard("<domain><devices>"+got+"</devices></domain>", target); again != "" || err != nil {
			t.Errorf("%s: a second time: %v\n%s", target, err, again)
		}
	}
	for _, bad := range []string{desc, "", "<domain>", "</domain>", "<a", strings.Repeat("<a>", 1000)} {
		if got, err := withDiscard(bad, "vdd"); err == nil {
			t.Errorf("%.40q: %s", bad, got)
		}
	}
}

func TestParseSizes(t *testing.T) {
	for desc, want := range map[string]Sizes{
		`<domain><memory unit='KiB'>2097152</memory><currentMemory unit='KiB'>1048576</currentMemory><vcpu placement='static' current='2'>4</vcpu></domain>`: {2, 4, 2048, 1024},
		`<domain><memory unit='MiB'>1536</memory><vcpu>2</vcpu></domain>`:                                                                                    {2, 2, 1536, 1536},
		`<domain/>`: {},
	} {
		if got, err := parseSizes(desc); err != nil || got != want {
			t.Errorf("%s: %+v %v", desc, got, err)
		}
	}
	if _, err := parseSizes("<domain><vcpu>x</vcpu></domain>"); err == nil {
		t.Error("a number that is none")
	}
}
