package fuse

import (
	"syscall"
	"time"
)

// Attr is the attributes of a file.
type Attr struct {
	Ino, Size, Blocks   uint64
	Atime, Mtime, Ctime Time
	Mode, Nlink         uint32
	UID, GID            uint32
	BlockSize           uint32
}

// Time is a time stamp of a file.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Reply builds one reply in a buffer that has room for Request.ReplySize bytes.
type Reply struct {
	buf []byte
	n   int
}

// NewReply returns a reply that is written to buf.
func NewReply(buf []byte) *Reply { return &Reply{buf: buf, n: OutHeaderSize} }

// Room returns the rest of the buffer, to be filled by the caller and then counted with Extend.
func (p *Reply) Room() []byte { return p.buf[p.n:] }

// Extend adds the first n bytes of Room to the reply.
func (p *Reply) Extend(n int) { p.n += n }

// Size returns how many bytes follow the header.
func (p *Reply) Size() int { return p.n - OutHeaderSize }

// Finish writes the header and returns the complete message. With an error, everything that was
// added is dropped.
func (p *Reply) Finish(unique uint64, err syscall.Errno) []byte {
	if err != 0 {
		p.n = OutHeaderSize
	}
	le.PutUint32(p.buf, uint32(p.n))
	le.PutUint32(p.buf[4:], uint32(-int32(err)))
	le.PutUint64(p.buf[8:], unique)
	return p.buf[:p.n]
}

// U32 adds an integer.
func (p *Reply) U32(v uint32) {
	le.PutUint32(p.buf[p.n:], v)
	p.n += 4
}

// U64 adds an integer.
func (p *Reply) U64(v uint64) {
	le.PutUint64(p.buf[p.n:], v)
	p.n += 8
}

// Bytes adds b.
func (p *Reply) Bytes(b []byte) { p.n += copy(p.buf[p.n:], b) }

func (p *Reply) attr(a *Attr) {
	p.U64(a.Ino)
	p.U64(a.Size)
	p.U64(a.Blocks)
	p.U64(uint64(a.Atime.Sec))
	p.U64(uint64(a.Mtime.Sec))
	p.U64(uint64(a.Ctime.Sec))
	p.U32(a.Atime.Nsec)
	p.U32(a.Mtime.Nsec)
	p.U32(a.Ctime.Nsec)
	p.U32(a.Mode)
	p.U32(a.Nlink)
	p.U32(a.UID)
	p.U32(a.GID)
	p.U32(0) // the device: device nodes of the host are not passed on
	p.U32(a.BlockSize)
	p.U32(0)
}

func (p *Reply) duration(d ...time.Duration) {
	for _, v := range d {
		p.U64(uint64(v / time.Second))
	}
	for _, v := range d {
		p.U32(uint32(v % time.Second))
	}
}

// Attr adds the reply to GETATTR and SETATTR; the guest may keep the attributes for valid.
func (p *Reply) Attr(a *Attr, valid time.Duration) {
	p.duration(valid)
	p.U32(0)
	p.attr(a)
}

// Entry adds the reply to LOOKUP and to the requests that create a name. Node 0 says that the name
// does not exist.
func (p *Reply) Entry(node uint64, a *Attr, valid time.Duration) {
	p.U64(node)
	p.U64(0) // generation: node numbers are not used twice
	p.duration(valid, valid)
	p.attr(a)
}

// Open adds the reply to OPEN, OPENDIR and CREATE.
func (p *Reply) Open(handle uint64, flags uint32) {
	p.U64(handle)
	p.U32(flags)
	p.U32(0)
}

const (
	direntSize = 24
	entrySize  = 128
)

func padded(n int) int { return (n + 7) &^ 7 }

// FitsDirent reports whether another directory entry fits a READDIR or READDIRPLUS reply of limit
// bytes.
func (p *Reply) FitsDirent(name string, limit uint32, plus bool) bool {
	n := padded(direntSize + len(name))
	if plus {
		n += entrySize
	}
	return p.Size()+n <= int(min(limit, maxDir)) && p.n+n <= len(p.buf)
}

// Dirent adds a directory entry. kind is the file type as in a mode, next the offset with which
// reading continues after it.
func (p *Reply) Dirent(name string, ino, next uint64, kind uint32) {
	p.U64(ino)
	p.U64(next)
	p.U32(uint32(len(name)))
	p.U32(kind >> 12)
	end := p.n + padded(direntSize+len(name)) - direntSize
	p.n += copy(p.buf[p.n:], name)
	for p.n < end {
		p.buf[p.n] = 0
		p.n++
	}
}

// Space is the reply to STATFS.
type Space struct {
	Blocks, Free, Available, Files, FreeFiles uint64
	BlockSize, NameLength, FragmentSize       uint32
}

// Statfs adds the reply to STATFS.
func (p *Reply) Statfs(s Space) {
	p.U64(s.Blocks)
	p.U64(s.Free)
	p.U64(s.Available)
	p.U64(s.Files)
	p.U64(s.FreeFiles)
	p.U32(s.BlockSize)
	p.U32(s.NameLength)
	p.U32(s.FragmentSize)
	for range 7 {
		p.U32(0)
	}
}

// Init adds the reply to INIT, with all flags of the guest's that the server supports. It fails with
// EPROTO if the guest's protocol is too old.
func (p *Reply) Init(in InitIn) error {
	const supported = initAsyncRead | initAtomicTrunc | initBigWrites | initAutoInvalData | initReaddirplus | initReaddirplusAuto |
		initAsyncDIO | initParallelDirops | initMaxPages | initCacheSymlinks | initKillprivV2
	const major, minor, minMinor = 7, 38, 31
	switch {
	case in.Major < major, in.Major == major && in.Minor < minMinor:
		return syscall.EPROTO
	case in.Major > major: // the guest repeats INIT with the version in the reply
		p.U32(major)
		p.U32(minor)
		p.Bytes(make([]byte, 56))
		return nil
	}
	p.U32(major)
	p.U32(minor)
	p.U32(min(in.MaxReadahead, MaxIO))
	p.U32(in.Flags & supported)
	p.U32(32 | 24<<16) // background requests, and from how many on the guest is congested
	p.U32(MaxIO)
	p.U32(1)            // granularity of time stamps: 1 ns
	p.U32(MaxIO / 4096) // pages of a request; no alignment of mappings
	for range 8 {
		p.U32(0)
	}
	return nil
}
