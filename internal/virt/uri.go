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

// SystemURI is the URI of the libvirt aivm uses: the host's system QEMU driver.
const SystemURI = "qemu:///system"

// SocketPaths are the sockets of a system libvirt: of the monolithic daemon and of the
// modular one (libvirt.org/daemons.html).
var SocketPaths = []string{"/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"}

// URI names a libvirt: the host's system QEMU driver, at one of SocketPaths or at another
// socket. The zero value is SystemURI.
type URI struct {
	socket string // "": one of SocketPaths
}

// socketPath matches paths that need no escaping in a URI, so that aivm and libvirt parse
// them the same way.
var socketPath = lazyre.New(`^/[A-Za-z0-9/._@:+,-]*$`)

// maxSocket is the longest path a unix socket can have (unix(7)).
const maxSocket = 107

// ParseURI parses a libvirt connection URI (libvirt.org/uri.html): qemu:///system or
// qemu+unix:///system, either with ?socket=/PATH. The error text is a predicate ("must be
// ..."): the caller puts the name of the config key before it.
func ParseURI(s string) (URI, error) {
	base, query, hasQuery := strings.Cut(s, "?")
	switch {
	case base == "qemu:///session" || base == "qemu+unix:///session":
		return URI{}, errors.New("must be the system's libvirt, " + SystemURI + ": the session's can neither create networks for VMs nor share folders with them")
	case base != SystemURI && base != "qemu+unix:///system":
		return URI{}, fmt.Errorf("must be %s, or qemu+unix:///system?socket=/PATH for another socket of this machine's libvirt, not %q: other drivers and other machines cannot be used", SystemURI, s)
	case !hasQuery:
		return URI{}, nil
	}
	p, ok := strings.CutPrefix(query, "socket=")
	if !ok {
		return URI{}, fmt.Errorf("may have nothing but socket=/PATH after the question mark, not %q", query)
	}
	if !socketPath.MatchString(p) || path.Clean(p) != p || p == "/" || len(p) > maxSocket {
		return URI{}, fmt.Errorf("must name a socket by its absolute path (letters, digits and any of /._@:+,- and at most %d of them), not %q", maxSocket, p)
	}
	return URI{socket: p}, nil
}

// String returns u as virsh and other libvirt programs accept it.
func (u URI) String() string {
	if u.socket == "" {
		return SystemURI
	}
	return "qemu+unix:///system?socket=" + u.socket
}

// Virsh returns a virsh command line for hints: virsh connected to u, followed by words.
func (u URI) Virsh(words string) string {
	return "virsh -c " + shellescape.Quote(u.String()) + " " + words
}

// Own reports whether u names a socket other than libvirt's standard ones.
func (u URI) Own() bool { return u.socket != "" }

// Socket returns the path of the socket u names, else the first of SocketPaths that
// exists, else the first of SocketPaths.
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
