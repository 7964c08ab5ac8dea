package fuse

import (
	"testing"
)

// message builds a request.
func message(op Opcode, body []byte) []byte {
	b := make([]byte, InHeaderSize, InHeaderSize+len(body))
	b = append(b, body...)
	le.PutUint32(b, uint32(len(b)))
	le.PutUint32(b[4:], uint32(op))
	le.PutUint64(b[8:], 7)
	le.PutUint64(b[16:], RootID)
	return b
}

// decodeAll decodes a request as every kind that it can be.
func decodeAll(r *Request) {
	_, _ = r.Name()
	_, _ = r.Init()
	_, _ = r.Forget()
	_ = r.BatchForget(func(Forgotten) {})
	_, _ = r.Setattr()
	_, _ = r.Mknod()
	_, _ = r.Mkdir()
	_, _ = r.Create()
	_, _ = r.Symlink()
	_, _ = r.Rename()
	_, _ = r.Link()
	_, _ = r.Open()
	_, _, _ = r.Handle()
	_, _ = r.Read()
	_, _ = r.Write()
	_, _ = r.Xattr()
	_, _ = r.Fallocate()
	_, _ = r.Lseek()
	_, _ = r.Copy()
}

// FuzzParse decodes arbitrary messages: nothing panics, what is returned is within the limits.
func FuzzParse(f *testing.F) {
	f.Add(message(Lookup, []byte("name\x00")))
	f.Add(message(Rename2, append(make([]byte, 16), "a\x00b\x00"...)))
	f.Add(message(Write, append(make([]byte, 40), "data"...)))
	f.Add(message(BatchForget, make([]byte, 40)))
	f.Add(message(Setxattr, append(make([]byte, 8), "user.x\x00v"...)))
	f.Add(message(Symlink, []byte("name\x00target\x00")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseLength(b); err != nil && len(b) >= InHeaderSize && len(b) <= MaxRequest && int(le.Uint32(b)) == len(b) {
			t.Errorf("the length %d is refused", len(b))
		}
		r, err := Parse(b)
		if err != nil {
			return
		}
		decodeAll(&r)
		if n := r.ReplySize(); n > MaxReply || n < OutHeaderSize {
			t.Errorf("reply of %d bytes", n)
		}
		if name, err := r.Name(); err == nil && (len(name) > MaxName || name == "" || name == "." || name == "..") {
			t.Errorf("name %q", name)
		}
		if in, err := r.Write(); err == nil && (len(in.Data) > MaxIO || in.Offset < 0) {
			t.Errorf("write of %d at %d", len(in.Data), in.Offset)
		}
	})
}

// TestNames checks which names are accepted.
func TestNames(t *testing.T) {
	long := string(make([]byte, 0))
	for range 256 {
		long += "x"
	}
	for name, ok := range map[string]bool{"a": true, "": false, ".": false, "..": false, "a/b": false, "/": false, "...": true, long: false, long[1:]: true, "\xff": true} {
		r, err := Parse(message(Lookup, append([]byte(name), 0)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Name(); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	r, err := Parse(message(Lookup, []byte("no end")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Name(); err == nil {
		t.Error("a name without an end is accepted")
	}
}

// TestInit checks the negotiation.
func TestInit(t *testing.T) {
	for _, tc := range []struct {
		major, minor uint32
		ok           bool
		reply        int
	}{{7, 31, true, 64}, {7, 36, true, 64}, {7, 45, true, 64}, {7, 30, false, 0}, {6, 99, false, 0}, {8, 0, true, 64}} {
		p := NewReply(make([]byte, 256))
		err := p.Init(InitIn{tc.major, tc.minor, 1 << 30, ^uint32(0)})
		if (err == nil) != tc.ok || tc.ok && p.Size() != tc.reply {
			t.Errorf("%d.%d: %v, %d bytes", tc.major, tc.minor, err, p.Size())
		}
	}
}
