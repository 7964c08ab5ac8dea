package record

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"reflect"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"
)

// libvirtd simulates the RPC protocol of libvirt 9.0, with domains, networks, pools and volumes in
// memory. It implements only the calls that aivm uses; another call is an error and fails the case.
type libvirtd struct {
	mu       sync.Mutex
	domains  []*domain
	networks []*virtNetwork
	pools    []*pool
	nextID   int32
	calls    map[uint32]call
	note     func(what, text string) // notes a call for the golden file
	unknown  []uint32
	uploads  map[int32]*upload
}

type upload struct {
	vol  *volume
	data []byte
}

// A call takes its XDR-encoded arguments and returns its XDR-encoded results.
type call func(args []byte) ([]byte, error)

func newLibvirtd(note func(what, text string)) *libvirtd {
	l := &libvirtd{calls: map[uint32]call{}, note: note, uploads: map[int32]*upload{}}
	l.connectCalls()
	l.domainCalls()
	l.snapshotCalls()
	l.networkCalls()
	l.poolCalls()
	return l
}

// on registers the function of an RPC procedure. Arguments and results are structs of go-libvirt.
func on[A, R any](l *libvirtd, proc uint32, f func(A) (R, error)) {
	l.calls[proc] = func(args []byte) ([]byte, error) {
		var a A
		if _, err := decodeXDR(args, reflect.ValueOf(&a).Elem()); err != nil {
			return nil, err
		}
		r, err := f(a)
		if err != nil {
			return nil, err
		}
		return encodeXDR(nil, reflect.ValueOf(r)), nil
	}
}

type none struct{}

func fail(code libvirt.ErrorNumber, format string, args ...any) error {
	return libvirt.Error{Code: uint32(code), Message: fmt.Sprintf(format, args...)}
}

const (
	typeReply, typeStream                    = 1, 3
	statusOK, statusError, statusMore        = 0, 1, 2
	procUpload, procDownload          uint32 = 208, 209
)

type packet struct{ program, version, proc, kind, serial, status uint32 }

func readPacket(r io.Reader) (p packet, body []byte, err error) {
	var head [28]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return p, nil, err
	}
	for i, f := range []*uint32{&p.program, &p.version, &p.proc, &p.kind, &p.serial, &p.status} {
		*f = binary.BigEndian.Uint32(head[4+4*i:])
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:])-28)
	_, err = io.ReadFull(r, body)
	return p, body, err
}

func (p packet) write(w io.Writer, kind, status uint32, body []byte) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(28+len(body)))
	for _, f := range []uint32{p.program, p.version, p.proc, kind, p.serial, status} {
		b = binary.BigEndian.AppendUint32(b, f)
	}
	_, err := w.Write(append(b, body...))
	return err
}

// serve answers one connection until it ends.
func (l *libvirtd) serve(c net.Conn) {
	defer c.Close()
	for {
		p, body, err := readPacket(c)
		if err != nil {
			return
		}
		if p.kind == typeStream {
			if err := l.stream(c, p, body); err != nil {
				return
			}
			continue
		}
		out, down, err := l.answer(p, body)
		if err != nil {
			e := libvirt.Error{Code: uint32(libvirt.ErrInternalError), Message: err.Error()}
			if le, ok := err.(libvirt.Error); ok {
				e = le
			}
			err = p.write(c, typeReply, statusError, encodeXDR(nil, reflect.ValueOf(struct {
				Code, Domain uint32
				There        uint8
				Message      string
				Level        uint32
			}{e.Code, 0, 1, e.Message, 2})))
		} else if err = p.write(c, typeReply, statusOK, out); err == nil && down != nil {
			if len(down) > 0 {
				err = p.write(c, typeStream, statusMore, down)
			}
			if err == nil {
				err = p.write(c, typeStream, statusMore, nil)
			}
		}
		if err != nil || p.proc == 2 {
			return
		}
	}
}

func (l *libvirtd) answer(p packet, body []byte) (out, down []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch p.proc {
	case procUpload:
		var a libvirt.StorageVolUploadArgs
		if _, err := decodeXDR(body, reflect.ValueOf(&a).Elem()); err != nil {
			return nil, nil, err
		}
		v, err := l.volume(a.Vol)
		if err != nil {
			return nil, nil, err
		}
		l.uploads[int32(p.serial)] = &upload{vol: v}
		return nil, nil, nil
	case procDownload:
		var a libvirt.StorageVolDownloadArgs
		if _, err := decodeXDR(body, reflect.ValueOf(&a).Elem()); err != nil {
			return nil, nil, err
		}
		v, err := l.volume(a.Vol)
		if err != nil {
			return nil, nil, err
		}
		d := v.data[min(a.Offset, uint64(len(v.data))):]
		if a.Length > 0 {
			d = d[:min(a.Length, uint64(len(d)))]
		}
		return nil, append([]byte{}, d...), nil
	}
	f, ok := l.calls[p.proc]
	if !ok {
		l.unknown = append(l.unknown, p.proc)
		return nil, nil, fmt.Errorf("the simulated libvirtd does not implement call %d", p.proc)
	}
	out, err = f(body)
	return out, nil, err
}

func (l *libvirtd) stream(c net.Conn, p packet, body []byte) error {
	l.mu.Lock()
	u := l.uploads[int32(p.serial)]
	done := p.status == statusOK
	if u != nil && !done {
		u.data = append(u.data, body...)
	}
	if u != nil && done {
		u.vol.data = u.data
		delete(l.uploads, int32(p.serial))
		l.uploaded(u.vol)
	}
	l.mu.Unlock()
	if done { // the end of an upload or a download
		return p.write(c, typeStream, statusOK, nil)
	}
	return nil
}

func (l *libvirtd) connectCalls() {
	on(l, 66, func(none) (libvirt.AuthListRet, error) { return libvirt.AuthListRet{Types: []libvirt.AuthType{0}}, nil })
	on(l, 1, func(none) (none, error) { return none{}, nil })
	on(l, 2, func(none) (none, error) { return none{}, nil })
	on(l, 60, func(none) (libvirt.ConnectSupportsFeatureRet, error) {
		return libvirt.ConnectSupportsFeatureRet{Supported: 1}, nil
	})
	on(l, 7, func(none) (libvirt.ConnectGetCapabilitiesRet, error) {
		return libvirt.ConnectGetCapabilitiesRet{Capabilities: capabilities}, nil
	})
	on(l, 157, func(none) (libvirt.ConnectGetLibVersionRet, error) {
		return libvirt.ConnectGetLibVersionRet{LibVer: 9_000_000}, nil
	})
	on(l, 4, func(none) (libvirt.ConnectGetVersionRet, error) {
		return libvirt.ConnectGetVersionRet{HvVer: 7_002_022}, nil
	})
}

// capabilities is the part of a real daemon's answer that aivm reads.
const capabilities = `<capabilities>
  <host>
    <secmodel>
      <model>none</model>
      <doi>0</doi>
    </secmodel>
    <secmodel>
      <model>dac</model>
      <doi>0</doi>
      <baselabel type='kvm'>+64055:+64055</baselabel>
      <baselabel type='qemu'>+64055:+64055</baselabel>
    </secmodel>
  </host>
</capabilities>
`
