package fuse

import (
	"bytes"
	"encoding/binary"
	"math"
	"syscall"
)

var le = binary.LittleEndian

// Header is the header of a request.
type Header struct {
	Op     Opcode
	Unique uint64
	Node   uint64
	UID    uint32
}

// Request is one request: its header, and what follows it.
type Request struct {
	Header
	Body []byte
}

// ParseLength returns the length of the message that begins with b, which has at least four bytes.
// It fails with EPROTO if no request can be that long; the stream cannot be used after it.
func ParseLength(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, syscall.EPROTO
	}
	n := le.Uint32(b)
	if n < InHeaderSize || n > MaxRequest {
		return 0, syscall.EPROTO
	}
	return int(n), nil
}

// Parse splits a complete message. The extensions of newer kernels (security contexts, groups) at
// its end are cut off.
func Parse(b []byte) (Request, error) {
	if len(b) < InHeaderSize || uint64(le.Uint32(b)) != uint64(len(b)) || len(b) > MaxRequest {
		return Request{}, syscall.EPROTO
	}
	extensions := int(le.Uint16(b[36:])) * 8
	if extensions > len(b)-InHeaderSize {
		return Request{}, syscall.EPROTO
	}
	return Request{
		Header: Header{Op: Opcode(le.Uint32(b[4:])), Unique: le.Uint64(b[8:]), Node: le.Uint64(b[16:]), UID: le.Uint32(b[24:])},
		Body:   b[InHeaderSize : len(b)-extensions],
	}, nil
}

// ReplySize returns how many bytes the reply to r can have at most.
func (r *Request) ReplySize() int {
	const small = 4096 + OutHeaderSize
	switch r.Op {
	case Read:
		if in, err := r.Read(); err == nil {
			return max(small, OutHeaderSize+int(in.Size))
		}
	case Readdir, Readdirplus:
		if in, err := r.Read(); err == nil {
			return max(small, OutHeaderSize+int(min(in.Size, maxDir)))
		}
	case Getxattr, Listxattr:
		return OutHeaderSize + maxXattr
	}
	return small
}

// Quick reports whether answering r usually takes less time than another thread needs to wake up:
// everything but reading, writing and flushing data.
func (r *Request) Quick() bool {
	switch r.Op {
	case Read, Write, Fsync, Fsyncdir, Fallocate, CopyFileRange:
		return false
	}
	return true
}

// fields reads integers from the beginning of a body; short is set if the body ends too early.
type fields struct {
	b     []byte
	short bool
}

func (f *fields) u32() uint32 {
	if len(f.b) < 4 {
		f.short = true
		return 0
	}
	v := le.Uint32(f.b)
	f.b = f.b[4:]
	return v
}

func (f *fields) u64() uint64 {
	if len(f.b) < 8 {
		f.short = true
		return 0
	}
	v := le.Uint64(f.b)
	f.b = f.b[8:]
	return v
}

// offset reads an offset or a length of a file, which must fit int64.
func (f *fields) offset() int64 {
	v := f.u64()
	if v > math.MaxInt64 {
		f.short = true
		return 0
	}
	return int64(v)
}

func (f *fields) err() error {
	if f.short {
		return syscall.EINVAL
	}
	return nil
}

// text reads a string that ends with NUL and has at most limit bytes.
func (f *fields) text(limit int) string {
	i := bytes.IndexByte(f.b, 0)
	if i <= 0 || i > limit {
		f.short = true
		return ""
	}
	s := string(f.b[:i])
	f.b = f.b[i+1:]
	return s
}

// component reads a name and checks that it is one component of a path.
func (f *fields) component() (string, error) {
	i := bytes.IndexByte(f.b, 0)
	if i < 0 {
		return "", syscall.EINVAL
	}
	name := f.b[:i]
	f.b = f.b[i+1:]
	switch {
	case len(name) > MaxName:
		return "", syscall.ENAMETOOLONG
	case len(name) == 0, string(name) == ".", string(name) == "..", bytes.IndexByte(name, '/') >= 0:
		return "", syscall.EINVAL
	}
	return string(name), nil
}

// Name decodes the name of LOOKUP, UNLINK and RMDIR.
func (r *Request) Name() (string, error) {
	f := fields{b: r.Body}
	return f.component()
}

// InitIn is the body of INIT.
type InitIn struct{ Major, Minor, MaxReadahead, Flags uint32 }

// Init decodes INIT.
func (r *Request) Init() (InitIn, error) {
	f := fields{b: r.Body}
	in := InitIn{f.u32(), f.u32(), f.u32(), f.u32()}
	return in, f.err()
}

// Forget decodes FORGET.
func (r *Request) Forget() (uint64, error) {
	f := fields{b: r.Body}
	n := f.u64()
	return n, f.err()
}

// Forgotten is an entry of BATCH_FORGET.
type Forgotten struct{ Node, Count uint64 }

// BatchForget calls forget for every entry of a BATCH_FORGET.
func (r *Request) BatchForget(forget func(Forgotten)) error {
	f := fields{b: r.Body}
	n := f.u32()
	f.u32()
	if f.short || uint64(n)*16 > uint64(len(f.b)) {
		return syscall.EINVAL
	}
	for range n {
		forget(Forgotten{f.u64(), f.u64()})
	}
	return nil
}

// SetattrIn is the body of SETATTR.
type SetattrIn struct {
	Valid                uint32
	Handle               uint64
	Size                 int64
	Atime, Mtime         uint64
	AtimeNsec, MtimeNsec uint32
	Mode, UID, GID       uint32
}

// Setattr decodes SETATTR.
func (r *Request) Setattr() (SetattrIn, error) {
	f := fields{b: r.Body}
	var in SetattrIn
	in.Valid = f.u32()
	f.u32()
	in.Handle = f.u64()
	size := f.u64()
	f.u64() // the lock owner
	in.Atime, in.Mtime = f.u64(), f.u64()
	f.u64() // ctime
	in.AtimeNsec, in.MtimeNsec = f.u32(), f.u32()
	f.u32()
	in.Mode = f.u32()
	f.u32()
	in.UID, in.GID = f.u32(), f.u32()
	f.u32()
	if in.Valid&SetSize != 0 && size > math.MaxInt64 || in.AtimeNsec >= 1e9 || in.MtimeNsec >= 1e9 {
		return in, syscall.EINVAL
	}
	in.Size = int64(size & math.MaxInt64)
	return in, f.err()
}

// MakeIn is the body of MKNOD, MKDIR, SYMLINK and CREATE; each uses a part of it.
type MakeIn struct {
	Name   string
	Flags  uint32
	Mode   uint32
	Target string
}

// Mknod decodes MKNOD.
func (r *Request) Mknod() (MakeIn, error) {
	f := fields{b: r.Body}
	in := MakeIn{Mode: f.u32()}
	f.u32() // the device
	f.u32() // umask: the kernel has applied it to the mode
	f.u32()
	return f.make(in)
}

// Mkdir decodes MKDIR.
func (r *Request) Mkdir() (MakeIn, error) {
	f := fields{b: r.Body}
	in := MakeIn{Mode: f.u32()}
	f.u32()
	return f.make(in)
}

// Create decodes CREATE.
func (r *Request) Create() (MakeIn, error) {
	f := fields{b: r.Body}
	in := MakeIn{Flags: f.u32(), Mode: f.u32()}
	f.u32()
	f.u32()
	return f.make(in)
}

// Symlink decodes SYMLINK.
func (r *Request) Symlink() (MakeIn, error) {
	f := fields{b: r.Body}
	in, err := f.make(MakeIn{})
	if err != nil {
		return in, err
	}
	in.Target = f.text(maxTarget - 1)
	return in, f.err()
}

func (f *fields) make(in MakeIn) (MakeIn, error) {
	if f.short {
		return in, syscall.EINVAL
	}
	var err error
	in.Name, err = f.component()
	return in, err
}

// RenameIn is the body of RENAME and RENAME2.
type RenameIn struct {
	NewDir   uint64
	Flags    uint32
	Old, New string
}

// Rename decodes RENAME and RENAME2.
func (r *Request) Rename() (RenameIn, error) {
	f := fields{b: r.Body}
	in := RenameIn{NewDir: f.u64()}
	if r.Op == Rename2 {
		in.Flags = f.u32()
		f.u32()
	}
	if f.short {
		return in, syscall.EINVAL
	}
	var err error
	if in.Old, err = f.component(); err != nil {
		return in, err
	}
	in.New, err = f.component()
	return in, err
}

// LinkIn is the body of LINK.
type LinkIn struct {
	Node uint64
	Name string
}

// Link decodes LINK.
func (r *Request) Link() (LinkIn, error) {
	f := fields{b: r.Body}
	in := LinkIn{Node: f.u64()}
	if f.short {
		return in, syscall.EINVAL
	}
	var err error
	in.Name, err = f.component()
	return in, err
}

// Open decodes OPEN and OPENDIR: the flags of open(2).
func (r *Request) Open() (uint32, error) {
	f := fields{b: r.Body}
	flags := f.u32()
	return flags, f.err()
}

// Handle decodes the handle with which RELEASE, RELEASEDIR, FSYNC and FSYNCDIR begin, and the
// integer after it.
func (r *Request) Handle() (handle uint64, flags uint32, err error) {
	f := fields{b: r.Body}
	handle, flags = f.u64(), f.u32()
	return handle, flags, f.err()
}

// ReadIn is the body of READ, READDIR and READDIRPLUS.
type ReadIn struct {
	Handle uint64
	Offset uint64
	Size   uint32 // at most MaxIO
}

// Read decodes READ, READDIR and READDIRPLUS. The offset of a directory is a cookie of 64 bits.
func (r *Request) Read() (ReadIn, error) {
	f := fields{b: r.Body}
	in := ReadIn{Handle: f.u64(), Offset: f.u64(), Size: f.u32()}
	if in.Size > MaxIO || r.Op == Read && in.Offset > math.MaxInt64-MaxIO {
		return in, syscall.EINVAL
	}
	return in, f.err()
}

// WriteIn is the body of WRITE.
type WriteIn struct {
	Handle     uint64
	Offset     int64
	WriteFlags uint32
	Flags      uint32
	Data       []byte
}

// Write decodes WRITE.
func (r *Request) Write() (WriteIn, error) {
	f := fields{b: r.Body}
	in := WriteIn{Handle: f.u64(), Offset: f.offset()}
	size := f.u32()
	in.WriteFlags = f.u32()
	f.u64() // the lock owner
	in.Flags = f.u32()
	f.u32()
	if f.short || uint64(size) > uint64(len(f.b)) || size > MaxIO || in.Offset > math.MaxInt64-MaxIO {
		return in, syscall.EINVAL
	}
	in.Data = f.b[:size]
	return in, nil
}

// XattrIn is the body of SETXATTR, GETXATTR, LISTXATTR and REMOVEXATTR.
type XattrIn struct {
	Name  string
	Size  uint32 // of the buffer for the reply; 0 asks for the size
	Flags uint32
	Value []byte
}

// Xattr decodes the requests for extended attributes.
func (r *Request) Xattr() (XattrIn, error) {
	f := fields{b: r.Body}
	var in XattrIn
	if r.Op != Removexattr {
		in.Size, in.Flags = f.u32(), f.u32()
	}
	if r.Op == Listxattr {
		return in, f.err()
	}
	in.Name = f.text(MaxName)
	if r.Op == Setxattr {
		if f.short || uint64(in.Size) > uint64(len(f.b)) || in.Size > maxXattr {
			return in, syscall.EINVAL
		}
		in.Value = f.b[:in.Size]
	}
	return in, f.err()
}

// FallocateIn is the body of FALLOCATE.
type FallocateIn struct {
	Handle         uint64
	Offset, Length int64
	Mode           uint32
}

// Fallocate decodes FALLOCATE.
func (r *Request) Fallocate() (FallocateIn, error) {
	f := fields{b: r.Body}
	in := FallocateIn{Handle: f.u64(), Offset: f.offset(), Length: f.offset(), Mode: f.u32()}
	return in, f.err()
}

// LseekIn is the body of LSEEK.
type LseekIn struct {
	Handle uint64
	Offset int64
	Whence uint32
}

// Lseek decodes LSEEK.
func (r *Request) Lseek() (LseekIn, error) {
	f := fields{b: r.Body}
	in := LseekIn{Handle: f.u64(), Offset: f.offset(), Whence: f.u32()}
	return in, f.err()
}

// CopyIn is the body of COPY_FILE_RANGE.
type CopyIn struct {
	Handle    uint64
	Offset    int64
	NewHandle uint64
	NewOffset int64
	Length    uint64
}

// Copy decodes COPY_FILE_RANGE.
func (r *Request) Copy() (CopyIn, error) {
	f := fields{b: r.Body}
	in := CopyIn{Handle: f.u64(), Offset: f.offset()}
	f.u64() // the node of the new handle
	in.NewHandle, in.NewOffset, in.Length = f.u64(), f.offset(), f.u64()
	return in, f.err()
}
