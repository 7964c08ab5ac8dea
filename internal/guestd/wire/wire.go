// Package wire is the protocol between aivm and the agent in a one-shot VM:
// frames on a byte stream (a virtio-serial port), and the messages in them.
//
// The host starts a connection with a greeting of a magic and a nonce; the agent
// answers with its own magic, the nonce and its version. Then both send frames: a
// header of 12 bytes and at most 1 MiB. The stream number of a frame is a request or
// a command, numbered by the host. Requests and replies are JSON; data frames are
// raw bytes, sent only as far as the receiver's credit reaches.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The names of the virtio-serial ports.
const (
	ControlPort = "aivm.control"
	FSPort      = "aivm.fs"
)

// Sizes.
const (
	HeaderSize  = 12
	MaxFrame    = 1 << 20   // the payload of a request
	MaxData     = 256 << 10 // the payload of a data frame
	MaxReply    = 64 << 10
	StdinWindow = 256 << 10 // what the agent takes of a command's input before it gives credit
	MaxWindow   = 4 << 20   // the most credit a host gives for one stream
	MaxCommands = 64        // running at once
)

// A Type says what a frame is.
type Type uint8

// Frames of the host.
const (
	Setup Type = iota + 1
	Start
	Prepare
	PowerOff
	Flush
	Stdin
	StdinEnd
	GrantOut // more credit for the command's standard output
	GrantErr
	CloseOut // nobody reads the standard output any more
	CloseErr
	Resize
	Signal
	Continue
)

// Frames of the guest.
const (
	Reply Type = iota + 64
	Stdout
	Stderr
	StdoutEnd
	StderrEnd
	GrantIn
	StdinClosed
	Stopped
	Exited
)

// sizes are the smallest and the largest payload of each type.
var sizes = map[Type][2]uint32{
	Setup: {2, MaxFrame}, Start: {2, MaxFrame}, Prepare: {2, MaxFrame}, PowerOff: {2, 2}, Flush: {2, 2},
	Stdin: {1, MaxData}, StdinEnd: {0, 0}, GrantOut: {4, 4}, GrantErr: {4, 4}, CloseOut: {0, 0}, CloseErr: {0, 0},
	Resize: {4, 4}, Signal: {4, 4}, Continue: {0, 0},
	Reply: {2, MaxReply}, Stdout: {1, MaxData}, Stderr: {1, MaxData}, StdoutEnd: {0, 0}, StderrEnd: {0, 0},
	GrantIn: {4, 4}, StdinClosed: {0, 0}, Stopped: {0, 0}, Exited: {8, 8},
}

// ErrProtocol is wrapped by the error of a frame that breaks the protocol.
var ErrProtocol = errors.New("protocol error")

// A Header precedes each frame's payload.
type Header struct {
	Type   Type
	Stream uint32
	Length uint32
}

// Put writes the header to the first 12 bytes of b.
func (h Header) Put(b []byte) {
	_ = b[HeaderSize-1]
	b[0], b[1], b[2], b[3] = byte(h.Type), 0, 0, 0
	binary.LittleEndian.PutUint32(b[4:], h.Stream)
	binary.LittleEndian.PutUint32(b[8:], h.Length)
}

// ParseHeader reads a header, and refuses one of an unknown type or a length the
// type does not have.
func ParseHeader(b []byte) (Header, error) {
	h := Header{Type: Type(b[0]), Stream: binary.LittleEndian.Uint32(b[4:]), Length: binary.LittleEndian.Uint32(b[8:])}
	size, known := sizes[h.Type]
	if !known || b[1]|b[2]|b[3] != 0 {
		return Header{}, fmt.Errorf("%w: a frame of unknown type %d", ErrProtocol, b[0])
	}
	if h.Length < size[0] || h.Length > size[1] {
		return Header{}, fmt.Errorf("%w: a frame of type %d with %d bytes", ErrProtocol, h.Type, h.Length)
	}
	return h, nil
}

// A Reader reads frames.
type Reader struct {
	R      io.Reader
	Accept func(Type) bool // which types may come from this side
	head   [HeaderSize]byte
}

// Next reads the next frame. The payload is new memory.
func (r *Reader) Next() (Header, []byte, error) {
	if _, err := io.ReadFull(r.R, r.head[:]); err != nil {
		return Header{}, nil, err
	}
	h, err := ParseHeader(r.head[:])
	if err != nil {
		return Header{}, nil, err
	}
	if !r.Accept(h.Type) {
		return Header{}, nil, fmt.Errorf("%w: a frame of type %d from the wrong side", ErrProtocol, h.Type)
	}
	if h.Length == 0 {
		return h, nil, nil
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(r.R, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Header{}, nil, err
	}
	return h, payload, nil
}

// FromHost reports whether the host may send t.
func FromHost(t Type) bool { return t < Reply }

// FromGuest reports whether the guest may send t.
func FromGuest(t Type) bool { return t >= Reply }

// Frame returns a complete frame in new memory.
func Frame(t Type, stream uint32, payload []byte) []byte {
	b := make([]byte, HeaderSize+len(payload))
	Header{t, stream, uint32(len(payload))}.Put(b)
	copy(b[HeaderSize:], payload)
	return b
}

// Number is the payload of a frame that holds one number.
func Number(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// ParseNumber reads the number of such a payload, 4 bytes as ParseHeader saw to.
func ParseNumber(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// ExitPayload is the payload of an Exited frame.
func ExitPayload(code, signal uint32) []byte {
	return binary.LittleEndian.AppendUint32(Number(code), signal)
}

// ParseExit reads it.
func ParseExit(b []byte) (code, signal uint32) {
	return binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
}
