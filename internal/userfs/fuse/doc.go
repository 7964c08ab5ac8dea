// Package fuse decodes FUSE requests and encodes replies, as far as the folder server needs them.
//
// The layout is that of the kernel's include/uapi/linux/fuse.h, protocol 7.31 and later, little
// endian. Requests come from a guest and are not trusted: every length is checked against the message
// it is in, names are single path components, offsets fit int64. The package makes no system calls.
package fuse

// Limits of the protocol as the server negotiates it.
const (
	// MaxIO is the largest data of one READ or WRITE.
	MaxIO = 1 << 20
	// MaxRequest is the largest request: a WRITE of MaxIO bytes with its headers.
	MaxRequest = MaxIO + 4096
	// MaxReply is the largest reply.
	MaxReply = MaxIO + OutHeaderSize
	// MaxName is the longest name of a directory entry.
	MaxName = 255
	// maxTarget is the longest target of a symbolic link, with its NUL.
	maxTarget = 4096
	// maxXattr is the largest value of an extended attribute, and the largest list of names.
	maxXattr = 1 << 16
	// maxDir is the largest reply with directory entries.
	maxDir = 1 << 16
)

// Sizes of the headers.
const (
	InHeaderSize  = 40
	OutHeaderSize = 16
)

// RootID is the node of the root directory.
const RootID = 1

// Opcode is the kind of a request.
type Opcode uint32

// The requests the server knows.
const (
	Lookup        Opcode = 1
	Forget        Opcode = 2
	Getattr       Opcode = 3
	Setattr       Opcode = 4
	Readlink      Opcode = 5
	Symlink       Opcode = 6
	Mknod         Opcode = 8
	Mkdir         Opcode = 9
	Unlink        Opcode = 10
	Rmdir         Opcode = 11
	Rename        Opcode = 12
	Link          Opcode = 13
	Open          Opcode = 14
	Read          Opcode = 15
	Write         Opcode = 16
	Statfs        Opcode = 17
	Release       Opcode = 18
	Fsync         Opcode = 20
	Setxattr      Opcode = 21
	Getxattr      Opcode = 22
	Listxattr     Opcode = 23
	Removexattr   Opcode = 24
	Init          Opcode = 26
	Opendir       Opcode = 27
	Readdir       Opcode = 28
	Releasedir    Opcode = 29
	Fsyncdir      Opcode = 30
	Create        Opcode = 35
	Interrupt     Opcode = 36
	Destroy       Opcode = 38
	BatchForget   Opcode = 42
	Fallocate     Opcode = 43
	Readdirplus   Opcode = 44
	Rename2       Opcode = 45
	Lseek         Opcode = 46
	CopyFileRange Opcode = 47
)

// Flags of INIT that the server may accept.
const (
	initAsyncRead       = 1 << 0
	initAtomicTrunc     = 1 << 3
	initBigWrites       = 1 << 5
	initAutoInvalData   = 1 << 12
	initReaddirplus     = 1 << 13
	initReaddirplusAuto = 1 << 14
	initAsyncDIO        = 1 << 15
	initParallelDirops  = 1 << 18
	initMaxPages        = 1 << 22
	initCacheSymlinks   = 1 << 23
	initKillprivV2      = 1 << 28
)

// Bits of SetattrIn.Valid.
const (
	SetMode     = 1 << 0
	SetUID      = 1 << 1
	SetGID      = 1 << 2
	SetSize     = 1 << 3
	SetAtime    = 1 << 4
	SetMtime    = 1 << 5
	SetHandle   = 1 << 6
	SetAtimeNow = 1 << 7
	SetMtimeNow = 1 << 8
)

// OpenKeepCache is the flag of an OPEN reply that keeps the guest's cached data of the file.
const OpenKeepCache = 1 << 1

// WriteFromCache is the flag of a WRITE that comes from the guest's page cache, not from write(2).
const WriteFromCache = 1 << 0
