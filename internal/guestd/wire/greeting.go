package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Version is that of the protocol. The agent of a template and the host agree on it.
const Version = 1

const (
	// HostMagic begins a greeting. No frame begins so.
	HostMagic  = "aivm\x00run"
	guestMagic = "aivm\x00vm\x01"
	// NonceSize is the length of a greeting's nonce.
	NonceSize = 8
	// GreetingSize is the length of the host's greeting.
	GreetingSize = len(HostMagic) + NonceSize
	// AnswerSize is the length of the agent's answer.
	AnswerSize = len(guestMagic) + NonceSize + 4
	// maxStale is what may come before the answer: bytes of an earlier connection.
	maxStale = 1 << 20
)

// Greeting is what the host sends first.
func Greeting(nonce [NonceSize]byte) []byte { return append([]byte(HostMagic), nonce[:]...) }

// Answer is the agent's answer to a greeting.
func Answer(nonce [NonceSize]byte) []byte {
	return binary.LittleEndian.AppendUint32(append([]byte(guestMagic), nonce[:]...), Version)
}

// A Scanner finds a greeting in a stream of bytes that may begin with others.
type Scanner struct{ last []byte }

// Byte takes the next byte, and reports the nonce once a greeting is complete.
func (s *Scanner) Byte(b byte) (nonce [NonceSize]byte, complete bool) {
	if len(s.last) == GreetingSize {
		s.last = s.last[:copy(s.last, s.last[1:])]
	}
	s.last = append(s.last, b)
	if len(s.last) == GreetingSize && string(s.last[:len(HostMagic)]) == HostMagic {
		copy(nonce[:], s.last[len(HostMagic):])
		s.last = s.last[:0]
		return nonce, true
	}
	return nonce, false
}

// ReadAnswer reads the agent's answer to the nonce, skipping at most 1 MiB of bytes
// that an earlier connection left, and nothing behind it.
func ReadAnswer(r io.ByteReader, nonce [NonceSize]byte) error {
	want := append([]byte(guestMagic), nonce[:]...)
	last := make([]byte, 0, 2*AnswerSize)
	for n := 0; n < maxStale; n++ {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if len(last) == AnswerSize {
			last = last[:copy(last, last[1:])]
		}
		last = append(last, b)
		if len(last) < AnswerSize || !bytes.HasPrefix(last, want) {
			continue
		}
		if v := binary.LittleEndian.Uint32(last[len(want):]); v != Version {
			return fmt.Errorf("%w: the agent in the guest speaks version %d, this aivm version %d", ErrProtocol, v, Version)
		}
		return nil
	}
	return fmt.Errorf("%w: no answer within the first %d bytes", ErrProtocol, maxStale)
}
