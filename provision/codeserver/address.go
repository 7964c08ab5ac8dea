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

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Address is the address at which a browser on this machine opens the editor of one VM. Each VM has
// its own host name, because cookies and sites are not separated by port. Browsers resolve every
// name below localhost to the loopback address themselves.
type Address struct {
	Schema int    `json:"schema"`
	Host   string `json:"host"` // aivm-RANDOM.localhost
	Port   int    `json:"port"`
}

const addressSchema = 1

// The range is below the ports that the kernel assigns itself (net.ipv4.ip_local_port_range).
const firstPort, lastPort = 20000, 32767

var hostName = regexp.MustCompile(`^aivm-[0-9a-f]{20}\.localhost$`)

// newAddress returns a random host name and port. The name does not contain the VM's: another user who
// can guess it could make the browser send the session cookie to his server on another port.
func newAddress() Address {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	n, _ := rand.Int(rand.Reader, big.NewInt(lastPort-firstPort+1))
	return Address{Schema: addressSchema, Host: "aivm-" + hex.EncodeToString(b[:]) + ".localhost", Port: firstPort + int(n.Int64())}
}

func (a Address) isValid() bool {
	return hostName.MatchString(a.Host) && a.Port >= firstPort && a.Port <= lastPort
}

// authority returns the value that the Host header of every request must have.
func (a Address) authority() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// record is the file with the address of a VM. The run that has it open holds its lock; a second
// run at the same time uses another address, only for itself.
type record struct {
	file *os.File
	Address
}

// openRecord opens the record at path and returns it with the address in it, or with a new one.
// file is nil if another run holds the lock, or if path is empty.
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
		return nil, ui.Refused("the file with the VM's browser address, %s, has format version %d; this aivm reads version %d", path, a.Schema, addressSchema).
			Hint(ui.CmdFor("use the aivm that wrote it, or move the file away to get another address", "mv "+shellescape.Quote(path)+" /tmp/"))
	case err == nil && a.isValid():
		r.Address = a
	}
	r.file = f
	return r, nil
}

// replaceAddress sets a new host name and port. The name changes too: the process that uses the old
// port may be another user's, and must not receive cookies that a browser keeps for the old name.
func (r *record) replaceAddress() { r.Address = newAddress() }

// save writes the address into the file in place, unless the file has it already.
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

func (r *record) closeFile() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// listenBoth listens on the port on both loopback addresses, since a browser may try either first and
// would take whatever answers there for the editor.
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
		return []net.Listener{l}, nil // without IPv6 nobody can listen on ::1
	}
	_ = l.Close()
	return nil, err
}

// listen listens on the recorded address, or on a new one if its port is in use, and saves it.
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
		r.replaceAddress()
	}
	return nil, fmt.Errorf("no free port between %d and %d: %w", firstPort, lastPort, last)
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close()
	}
}
