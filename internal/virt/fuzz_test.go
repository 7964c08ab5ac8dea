package virt

import (
	"bytes"
	"encoding/xml"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

const domainSeed = `<domain type='kvm' id='3'><name>a</name><uuid>c1c3e1c0-0d0f-4a51-9d2c-1c6a0a7a5f00</uuid>
<metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="1000"/><o:other xmlns:o="urn:o"/></metadata>
<memory unit='KiB'>2097152</memory><vcpu placement='static'>2</vcpu><memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/v/a.qcow2'/><target dev='vda' bus='virtio'/><serial>aivm-disk</serial><alias name='virtio-disk0'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='x'/></disk><disk device='cdrom'/>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/var/lib/aivm/export/0-a'/><target dir='aivm-root'/></filesystem><filesystem/>
<interface type='network'><mac address='52:54:00:01:02:03'/><source network='aivm-net'/></interface><interface type='user'/>
<serial type='pty'><log file='/v/a.log' append='on'/></serial></devices></domain>`

// FuzzDomainXML checks that ParseDomain finds a mark only in aivm's namespace, sets no
// state, and that diskXML and filesystemXML find every device it returns.
func FuzzDomainXML(f *testing.F) {
	f.Add(domainSeed)
	f.Add("<domain><devices/></domain>")
	f.Add("<domain><memory unit='GiB'>4</memory><metadata><mark xmlns='urn:aivm:mark:1' owner='-1'/></metadata></domain>")
	f.Fuzz(func(t *testing.T, desc string) {
		d, err := ParseDomain(desc)
		if err != nil {
			return
		}
		if d.Mark.Exists && !strings.Contains(desc, "aivm") && !strings.Contains(desc, "&") {
			t.Errorf("a mark in XML that has none: %q", desc)
		}
		if d.State != "" {
			t.Errorf("ParseDomain set the state %q", d.State)
		}
		for _, k := range d.Disks {
			dev, ok, err := diskXML(desc, k.Serial)
			if err != nil || !ok {
				t.Fatalf("diskXML does not find disk %q: %v", k.Serial, err)
			}
			own, err := ParseDomain("<domain><devices>" + dev + "</devices></domain>")
			if err != nil || len(own.Disks) != 1 || own.Disks[0].Serial != k.Serial {
				t.Fatalf("the XML of disk %q is %q: %v", k.Serial, dev, err)
			}
		}
		for _, k := range d.Filesystems {
			if k.Tag == "" {
				continue
			}
			if dev, ok, err := filesystemXML(desc, k.Tag); err != nil || !ok {
				t.Fatalf("filesystemXML does not find device %q: %q %v", k.Tag, dev, err)
			}
		}
	})
}

const networkSeed = `<network connections='1'><name>aivm-net</name><uuid>c1c3e1c0-0d0f-4a51-9d2c-1c6a0a7a5f00</uuid>
<metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="0"/></metadata><forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>
<bridge name='virbr-aivm' stp='on' delay='0'/><mac address='52:54:00:f2:72:fa'/><ip address='10.77.0.1' netmask='255.255.255.0'><dhcp>
<range start='10.77.0.100' end='10.77.0.254'/><host mac='52:54:00:01:02:03' name='a' ip='10.77.0.50'/></dhcp></ip><ip family='ipv6' address='fd00::1' prefix='64'/></network>`

// FuzzNetworkXML checks that the gateway is in the subnet, and that withMark marks a
// definition and changes nothing else of it.
func FuzzNetworkXML(f *testing.F) {
	f.Add(networkSeed, 1000)
	f.Add(strings.Replace(networkSeed, "255.255.255.0", "ffff::", 1), 0)
	f.Add("<network><uuid>x</uuid><metadata/><ip address='10.0.0.1' prefix='99'/></network>", 5)
	f.Fuzz(func(t *testing.T, desc string, owner int) {
		n, err := ParseNetwork(desc)
		if err != nil {
			return
		}
		if n.Subnet.IsValid() && (!n.Subnet.Contains(n.Gateway) || n.Subnet != n.Subnet.Masked() || !n.Gateway.Is4()) {
			t.Errorf("gateway %v of %v", n.Gateway, n.Subnet)
		}
		for _, h := range n.Hosts {
			if !h.IP.IsValid() {
				t.Errorf("reservation %+v", h)
			}
		}
		// withMark only gets XML that libvirt printed: use its layout.
		var x libvirtxml.Network
		if x.Unmarshal(desc) != nil || x.UUID == "" || owner < 0 {
			return
		}
		x.Metadata = nil
		own, err := x.Marshal()
		if err != nil {
			return
		}
		before, err := ParseNetwork(own)
		if err != nil {
			return // a character that XML does not allow
		}
		marked, err := withMark(own, owner)
		if err != nil {
			t.Fatal(err)
		}
		after, err := ParseNetwork(marked)
		if err != nil || !after.Mark.By(owner) {
			t.Fatalf("%v, %+v:\n%s", err, after, marked)
		}
		after.Mark = before.Mark
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%+v became %+v", before, after)
		}
		if strings.Replace(marked, "<metadata>"+MarkXML(owner)+"</metadata>", "", 1) != own {
			t.Errorf("more than the mark was inserted:\n%s", marked)
		}
	})
}

// FuzzMark checks that parseMark finds what MarkXML returns next to any other metadata, and
// nothing of another namespace.
func FuzzMark(f *testing.F) {
	f.Add(1000, "o", "<o:x xmlns:o='urn:o'>t</o:x>", `<mark owner="7"/>`)
	f.Add(0, "", "", "<mark/>")
	f.Fuzz(func(t *testing.T, owner int, prefix, neighbour, element string) {
		if m := parseMark(MarkXML(owner)); m != (Mark{Exists: true, Owner: owner}) {
			t.Errorf("%d became %+v", owner, m)
		}
		if m := parseElement(element); m.Exists && !strings.Contains(element, "mark") {
			t.Errorf("%q is a mark", element)
		}
		if m := parseMark(neighbour); m.Exists && !strings.Contains(neighbour, "aivm") && !strings.Contains(neighbour, "&") {
			t.Errorf("%q is a mark", neighbour)
		}
		// Next to any well-formed metadata.
		var probe struct {
			Inner string `xml:",innerxml"`
		}
		if xml.Unmarshal([]byte("<m>"+neighbour+"</m>"), &probe) != nil || probe.Inner != neighbour || parseMark(neighbour).Exists {
			return
		}
		if m := parseMark(neighbour + MarkXML(owner)); !m.By(owner) {
			t.Errorf("next to %q: %+v", neighbour, m)
		}
	})
}

// FuzzLeases checks that readLeases returns only leases with one MAC address and a valid IP
// address, without the names that guests choose.
func FuzzLeases(f *testing.F) {
	f.Add("52:54:00:01:02:03", "10.77.0.51", "host\x1b[2J", "01:52:54", 1)
	f.Add("", "fe80::1%eth0", "", "", 0)
	f.Fuzz(func(t *testing.T, mac, ip, host, id string, n int) {
		l := libvirt.NetworkDhcpLease{Ipaddr: ip, Hostname: libvirt.OptString{host}, Clientid: libvirt.OptString{id}}
		for range n & 3 {
			l.Mac = append(l.Mac, mac)
		}
		got := readLeases([]libvirt.NetworkDhcpLease{l, {Ipaddr: "10.77.0.9", Mac: libvirt.OptString{"52:54:00:0a:0b:0c"}}})
		_, err := netip.ParseAddr(ip)
		if want := 1 + btoi(err == nil && n&3 == 1); len(got) != want {
			t.Fatalf("%d leases, not %d", len(got), want)
		}
		if last := got[len(got)-1]; last.IP.String() != "10.77.0.9" || last.Name != "" {
			t.Errorf("%+v", last)
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// script is a connection that returns the bytes of in and accepts any output.
type script struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s *script) Close() error                { return nil }
func (s *script) SetDeadline(time.Time) error { return nil }

// FuzzWire checks that reading ends for any input, returns no more bytes than it got, and
// allocates nothing for a packet that claims to be large. Packets that do not belong to a
// download pass unchanged.
func FuzzWire(f *testing.F) {
	p := func(kind, status, proc uint32, body string) []byte {
		var b []byte
		for _, v := range []uint32{uint32(headLen + len(body)), program, 1, proc, kind, 7, status} {
			b = append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
		}
		return append(b, body...)
	}
	f.Add(bytes.Join([][]byte{p(1, 0, procVolDownload, ""), p(3, 2, procVolDownload, "data"), p(3, 2, procVolDownload, ""), p(3, 0, procVolDownload, "")}, nil), 5)
	f.Add(bytes.Join([][]byte{p(3, 2, procVolDownload, "early"), p(3, 2, procVolDownload, ""), p(1, 0, procVolDownload, "")}, nil), 100)
	f.Add(p(1, 0, 1, "other"), 1)
	f.Fuzz(func(t *testing.T, in []byte, chunk int) {
		w := newWire(&script{in: bytes.NewReader(in)})
		buf := make([]byte, max(1, chunk&0xfff))
		var got []byte
		for {
			n, err := w.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				break
			}
			if len(got) > len(in) {
				t.Fatalf("%d bytes of %d", len(got), len(in))
			}
		}
		if len(in) >= headLen {
			if h := parseHead(in); (h.procedure != procVolDownload || h.program != program) && int(h.length) >= len(in) && !bytes.Equal(got, in) {
				t.Errorf("%q became %q", in, got)
			}
		}
	})
}
