package codeserver

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Address is where a browser on this machine finds the editor of one VM. The
// host name is the VM's own, since cookies and sites know no ports. Browsers
// resolve every name below localhost to this machine's loopback themselves.
type Address struct {
	Schema int    `json:"schema"`
	Host   string `json:"host"` // aivm-RANDOM.localhost
	Port   int    `json:"port"`
}

const addressSchema = 1

// Ports below those that the kernel hands out by itself.
const firstPort, lastPort = 20000, 32767

var hostName = regexp.MustCompile(`^aivm-[0-9a-f]{20}\.localhost$`)

// newAddress returns a name and a port nobody has seen. The name is not made
// from the VM's: another user who knows it could have the browser send the
// session's cookie to a server of his on another port.
func newAddress() Address {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	n, _ := rand.Int(rand.Reader, big.NewInt(lastPort-firstPort+1))
	return Address{Schema: addressSchema, Host: "aivm-" + hex.EncodeToString(b[:]) + ".localhost", Port: firstPort + int(n.Int64())}
}

func (a Address) valid() bool {
	return hostName.MatchString(a.Host) && a.Port >= firstPort && a.Port <= lastPort
}

// authority is what the Host of every request has to be.
func (a Address) authority() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// record is the file that remembers the address of a VM. Who has it open holds
// its lock: a second run beside it takes an address of its own, for that run.
type record struct {
	file *os.File
	Address
}

// openRecord returns the record, with an address whether it was there or not.
// Its file is nil if another run holds it, or if path is empty.
func openRecord(path string) (*record, error) {
	r := &record{Address: newAddress()}
	if path == "" {
		return r, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return r, nil
		}
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	var a Address
	err = json.Unmarshal(b, &a)
	switch {
	case err == nil && a.Schema > addressSchema:
		_ = f.Close()
		return nil, ui.Refused("the browser's address of the VM, %s, is of version %d; this aivm reads version %d", path, a.Schema, addressSchema).
			Hint(ui.CmdFor("use the aivm that wrote it, or move the file away, and the editor gets another address", "mv "+path+" /tmp/"))
	case err == nil && a.valid():
		r.Address = a
	}
	r.file = f
	return r, nil
}

// renew takes another address, name and port: who took the port may be another
// user, and must get nothing that a browser keeps for the name.
func (r *record) renew() { r.Address = newAddress() }

// save writes the address down in place, unless it stands there already.
func (r *record) save() error {
	if r.file == nil {
		return nil
	}
	b, err := json.Marshal(r.Address)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	old := make([]byte, len(b)+1)
	if n, _ := r.file.ReadAt(old, 0); string(old[:n]) == string(b) {
		return nil
	}
	if _, err := r.file.WriteAt(b, 0); err != nil {
		return err
	}
	return r.file.Truncate(int64(len(b)))
}

func (r *record) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// listenBoth takes the port on both loopback addresses. A browser may try
// either first, and what answers on the other one would be taken for the editor.
func listenBoth(port int) ([]net.Listener, error) {
	text := strconv.Itoa(port)
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", text))
	if err != nil {
		return nil, err
	}
	l6, err := net.Listen("tcp6", net.JoinHostPort("::1", text))
	switch {
	case err == nil:
		return []net.Listener{l, l6}, nil
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return []net.Listener{l}, nil // no IPv6: nobody can answer there
	}
	_ = l.Close()
	return nil, err
}

// listen finds an address whose port is free and remembers it.
func (r *record) listen() ([]net.Listener, error) {
	var last error
	for range 50 {
		ls, err := listenBoth(r.Port)
		if err == nil {
			if err := r.save(); err != nil {
				closeAll(ls)
				return nil, err
			}
			return ls, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
		last = err
		r.renew()
	}
	return nil, fmt.Errorf("no free port between %d and %d: %w", firstPort, lastPort, last)
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close()
	}
}
