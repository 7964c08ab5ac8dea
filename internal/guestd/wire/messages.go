package wire

import (
	"net/netip"
	"time"
)

// SetupRequest makes a resumed or booted guest ready for commands.
type SetupRequest struct {
	Hostname   string
	MachineID  string // 32 hexadecimal digits
	UID, GID   int    // of the guest user; 0 makes none
	User       string
	Home       string
	Time       time.Time
	Entropy    []byte
	HostKey    string // OpenSSH's private key of the guest, and its public line
	HostKeyPub string
	Mounts     []Mount
	Network    *Network
	Limits     Limits
}

// A Mount is a folder of the host in the guest.
type Mount struct {
	Export    int      // the number of its directory in the folder server
	Path      string   // where it is in the guest
	Also      []string // further paths of it
	ReadOnly  bool
	Transport string // Relay (also if empty) or Virtiofs
	Tag       string // of virtiofs
}

// The transports of a Mount.
const (
	Relay    = "relay"
	Virtiofs = "virtiofs"
)

// Network is the configuration of the only network card.
type Network struct {
	Address netip.Prefix
	Gateway netip.Addr
	DNS     []netip.Addr
	MTU     int
}

// Limits hold for all commands together; 0 is none.
type Limits struct {
	Pids        int
	MemoryBytes int64
}

// StartRequest starts a command.
type StartRequest struct {
	Argv      []string
	Dir       string
	Env       []string
	Root      bool
	TTY       *Size
	OutCredit uint32
	ErrCredit uint32
}

// Size is that of a terminal.
type Size struct{ Rows, Cols uint16 }

// Put is the payload of a Resize frame.
func (s Size) Put() []byte { return Number(uint32(s.Rows) | uint32(s.Cols)<<16) }

// ParseSize reads it.
func ParseSize(b []byte) Size {
	n := ParseNumber(b)
	return Size{Rows: uint16(n), Cols: uint16(n >> 16)}
}

// PrepareRequest prepares the guest for being saved.
type PrepareRequest struct {
	Warm [][]string // commands to run once the caches are empty, so that what they read is in them
}

// ReplyMessage answers a request.
type ReplyMessage struct {
	Error    string `json:",omitempty"`
	Errno    int    `json:",omitempty"` // why a command did not start
	Conflict string `json:",omitempty"` // the guest path that cannot be mounted on
}
