package virt

import "testing"

func TestDomainID(t *testing.T) {
	for desc, want := range map[string]int{
		"<domain type='kvm' id='7'><name>a</name></domain>": 7,
		"<domain type='kvm'><name>a</name></domain>":        0,
	} {
		if d, err := ParseDomain(desc); err != nil || d.ID != want {
			t.Errorf("%s: %+v %v", desc, d, err)
		}
	}
}
