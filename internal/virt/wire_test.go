package virt

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
)

func TestWithMark(t *testing.T) {
	plain := "<network>\n  <name>old</name>\n  <uuid>u</uuid>\n  <bridge name='b'/>\n</network>\n"
	for desc, what := range map[string]string{
		plain: "no metadata",
		strings.Replace(plain, "<uuid>", "<metadata>\n<x:y xmlns:x=\"urn:x\" a=\"b\"/>\n</metadata>\n<uuid>", 1): "another program's metadata",
	} {
		marked, err := withMark(desc, 1000)
		if err != nil {
			t.Fatal(err)
		}
		n, err := ParseNetwork(marked)
		if err != nil || !n.Mark.By(1000) || n.Name != "old" || n.Bridge != "b" {
			t.Errorf("%s: %+v %v", what, n, err)
		}
		if strings.Replace(strings.Replace(marked, MarkXML(1000), "", 1), "<metadata></metadata>", "", 1) != desc {
			t.Errorf("%s: more than the mark was changed:\n%s", what, marked)
		}
		if elements(marked) == elements(desc) || elements(marked) != elements(strings.ReplaceAll(marked, "\n", "\n   ")) {
			t.Errorf("%s: elements does not show the mark, or depends on white space", what)
		}
	}
	if _, err := withMark("<network/>", 0); err == nil {
		t.Error("a network without a uuid was marked")
	}
}

// packet returns a packet of a download in wire format.
func packet(kind, serial, status uint32, body string) []byte {
	var b []byte
	for _, v := range []uint32{uint32(headLen + len(body)), program, 1, procVolDownload, kind, serial, status} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, body...)
}

// In whatever order the daemon's packets of a download arrive, the library reads the
// reply, the data, the end, and nothing after it.
func TestWireOrdersDownloads(t *testing.T) {
	reply, data, end, finish := packet(1, 7, statusOK, ""), packet(typeStream, 7, statusContinue, "data"), packet(typeStream, 7, statusContinue, ""), packet(typeStream, 7, statusOK, "")
	other := packet(1, 8, statusOK, "next")
	want := bytes.Join([][]byte{reply, data, end, other}, nil)
	for what, order := range map[string][][]byte{
		"as it should be":           {reply, data, end, finish, other},
		"data first":                {data, reply, end, finish, other},
		"all before the reply":      {data, end, reply, finish, other},
		"the finish answer, too":    {data, end, finish, reply, other},
		"the reply before the rest": {reply, data, end, finish, other},
	} {
		here, there := net.Pipe()
		sent := make(chan []byte, 1)
		go func() {
			var got []byte
			for _, p := range order {
				_, _ = there.Write(p)
				if bytes.Equal(p, end) {
					b := make([]byte, headLen)
					_, _ = io.ReadFull(there, b)
					got = b
				}
			}
			sent <- got
			_ = there.Close()
		}()
		w := newWire(here)
		got, err := io.ReadAll(w)
		if err != nil && err != io.EOF && err != io.ErrClosedPipe {
			t.Errorf("%s: %v", what, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%q\n%q", what, got, want)
		}
		if g := <-sent; !bytes.Equal(g, finish) {
			t.Errorf("%s: the daemon was sent %q", what, g)
		}
		if len(w.streams) > 1 {
			t.Errorf("%s: %d downloads are still recorded", what, len(w.streams))
		}
	}
}

// A finish message is never sent inside a packet the library is writing.
func TestWireDoesNotSplitPackets(t *testing.T) {
	here, there := net.Pipe()
	w := newWire(here)
	read := make(chan []byte)
	go func() {
		var all []byte
		b := make([]byte, 256)
		for {
			n, err := there.Read(b)
			all = append(all, b[:n]...)
			if err != nil {
				read <- all
				return
			}
		}
	}()
	p := packet(0, 9, statusOK, "a long one")
	_, _ = w.Write(p[:3])
	_ = w.sendFinish(head{program: program, version: 1, procedure: procVolDownload, serial: 7})
	_, _ = w.Write(p[3:20])
	_, _ = w.Write(p[20:])
	_ = here.Close()
	if got, want := <-read, append(bytes.Clone(p), packet(typeStream, 7, statusOK, "")...); !bytes.Equal(got, want) {
		t.Errorf("%q\n%q", got, want)
	}
}
