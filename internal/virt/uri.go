package virt

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/lazyre"
)

// SystemURI is the hypervisor aivm uses: the system's QEMU of this machine.
const SystemURI = "qemu:///system"

// SocketPaths are the places where a system libvirt listens: the modular
// daemon's and the monolithic one's (libvirt.org/daemons.html).
var SocketPaths = []string{"/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"}

// URI says which libvirt is asked: the system's QEMU of this machine, at one of
// SocketPaths or at a socket of its own. The zero value is SystemURI.
type URI struct {
	socket string // "": one of SocketPaths
}

// socketPath is what needs no escape in a URI, so that ours, libvirt's and a
// person's reading of it are the same.
var socketPath = lazyre.New(`^/[A-Za-z0-9/._@:+,-]*$`)

// maxSocket is the longest path a unix socket can have (unix(7)).
const maxSocket = 107

// ParseURI reads a connection URI as libvirt writes it (libvirt.org/uri.html):
// qemu:///system, or qemu+unix:///system, either with ?socket=/PATH. The error
// is the end of a sentence that begins with the name of the value.
func ParseURI(s string) (URI, error) {
	base, query, asked := strings.Cut(s, "?")
	switch {
	case base == "qemu:///session" || base == "qemu+unix:///session":
		return URI{}, errors.New("must be the system's libvirt and not the session's, which can neither make networks for VMs nor share folders with them: " + SystemURI)
	case base != SystemURI && base != "qemu+unix:///system":
		return URI{}, fmt.Errorf("must be %s, or qemu+unix:///system?socket=/PATH for another socket of this machine's libvirt, not %q: other drivers and other machines cannot be used", SystemURI, s)
	case !asked:
		return URI{}, nil
	}
	p, ok := strings.CutPrefix(query, "socket=")
	if !ok {
		return URI{}, fmt.Errorf("may have nothing but socket=/PATH after its question mark, not %q", query)
	}
	if !socketPath.MatchString(p) || path.Clean(p) != p || p == "/" || len(p) > maxSocket {
		return URI{}, fmt.Errorf("must name a socket by its absolute path (letters, digits and any of /._@:+,- and at most %d of them), not %q", maxSocket, p)
	}
	return URI{socket: p}, nil
}

// String returns u as libvirt's own programs take it.
func (u URI) String() string {
	if u.socket == "" {
		return SystemURI
	}
	return "qemu+unix:///system?socket=" + u.socket
}

// Virsh returns the beginning of a command line for people: virsh, asking the
// libvirt that aivm asks, with words after it.
func (u URI) Virsh(words string) string {
	return "virsh -c " + shellescape.Quote(u.String()) + " " + words
}

// Own reports whether u names a socket of its own.
func (u URI) Own() bool { return u.socket != "" }

// Socket returns the path of u's socket, else of the first of SocketPaths that
// exists.
func (u URI) Socket() string {
	for _, p := range u.sockets() {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return u.sockets()[0]
}

func (u URI) sockets() []string {
	if u.socket != "" {
		return []string{u.socket}
	}
	return SocketPaths
}
