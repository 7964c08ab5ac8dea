package definition_test

import (
	"bytes"
	"encoding/xml"
	"testing"

	"aivm.dev/aivm/internal/root/definition"
)

// The XML of a VM that libvirt passes to a hook is parsed or refused; only an element
// in aivm's namespace sets an owner.
func FuzzHookXML(f *testing.F) {
	f.Add([]byte(`<domain type='kvm'><name>a</name><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="1000"/></metadata><devices><interface type='network'>` +
		`<mac address='52:54:00:01:02:03'/><source network='aivm-net' bridge='virbr1'/><target dev='vnet7'/></interface></devices></domain>`))
	f.Add([]byte(`<domain><metadata><mark xmlns="urn:other" owner="0"/><mark xmlns="urn:aivm:mark:1" owner="-1"/></metadata></domain>`))
	f.Add([]byte("<domain><devices><interface><source/></interface>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := definition.ReadVM(bytes.NewReader(b))
		if err != nil {
			return
		}
		owner, ok := d.Owner()
		if ok && (owner < 0 || !bytes.Contains(b, []byte("aivm")) && !bytes.Contains(b, []byte("&"))) {
			t.Errorf("owner %d of %q", owner, b)
		}
		// The network definition for which a user's helper may load a firewall is read
		// by the same decoder from a file; it has to be one document.
		if xml.Unmarshal(b, new(struct {
			XMLName xml.Name
		})) != nil && ok && bytes.Count(b, []byte("urn:aivm:mark:1")) == 0 && !bytes.Contains(b, []byte("&")) {
			t.Errorf("an owner from text that is not one XML document: %q", b)
		}
	})
}
