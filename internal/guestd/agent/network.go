package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

const loopback = 1 // its index in every network namespace

// setNetwork configures loopback, and the network card if the request has one.
func (g *guest) setNetwork(r wire.SetupRequest) error {
	link, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(link)
	if err := request(link, linkUp(loopback, 0)); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	resolvers := "# no network\n"
	if n := r.Network; n != nil {
		if err := configure(link, n); err != nil {
			return err
		}
		resolvers = ""
		for _, a := range n.DNS {
			resolvers += "nameserver " + a.String() + "\n"
		}
	}
	return g.write("/etc/resolv.conf", resolvers, 0o644)
}

func configure(link int, n *wire.Network) error {
	index, err := waitFor("virtio_net", findCard)
	if err != nil {
		return fmt.Errorf("the network card: %w", err)
	}
	card, err := strconv.Atoi(index)
	if err != nil {
		return err
	}
	steps := []struct {
		what    string
		message []byte
	}{{"the network card", linkUp(card, n.MTU)}, {n.Address.String(), addAddress(card, n.Address)}}
	if n.Gateway.IsValid() {
		steps = append(steps, struct {
			what    string
			message []byte
		}{"route over " + n.Gateway.String(), addDefaultRoute(card, n.Gateway)})
	}
	for _, step := range steps {
		if err := request(link, step.message); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// findCard returns the interface index of the network card with the driver.
func findCard(driver string) (string, error) {
	links, err := filepath.Glob("/sys/class/net/*/device/driver")
	if err != nil {
		return "", err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || filepath.Base(target) != driver {
			continue
		}
		index, err := os.ReadFile(filepath.Dir(filepath.Dir(link)) + "/ifindex")
		return strings.TrimSpace(string(index)), err
	}
	return "", os.ErrNotExist
}

// attribute appends a netlink attribute.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func native32(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

// message is a netlink request with an acknowledgement.
func message(kind, flags uint16, body []byte) []byte {
	b := native32(unix.SizeofNlMsghdr + len(body))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	b = append(b, make([]byte, 8)...) // sequence and port: one request at a time
	return append(b, body...)
}

// linkUp sets an interface up, with an MTU unless it is 0.
func linkUp(index, mtu int) []byte {
	body := make([]byte, 4) // family, type
	body = append(body, native32(index)...)
	body = append(body, native32(unix.IFF_UP)...)
	body = append(body, native32(unix.IFF_UP)...) // of which this changes
	if mtu > 0 {
		body = attribute(body, unix.IFLA_MTU, native32(mtu))
	}
	return message(unix.RTM_NEWLINK, 0, body)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addAddress(index int, p netip.Prefix) []byte {
	body := []byte{family(p.Addr()), byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	body = append(body, native32(index)...)
	body = attribute(body, unix.IFA_LOCAL, p.Addr().AsSlice())
	body = attribute(body, unix.IFA_ADDRESS, p.Addr().AsSlice())
	if p.Addr().Is6() {
		body = attribute(body, unix.IFA_FLAGS, native32(unix.IFA_F_NODAD)) // usable at once
	}
	return message(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

func addDefaultRoute(index int, gateway netip.Addr) []byte {
	body := []byte{
		family(gateway), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST,
		0, 0, 0, 0,
	}
	body = attribute(body, unix.RTA_GATEWAY, gateway.AsSlice())
	body = attribute(body, unix.RTA_OIF, native32(index))
	return message(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// request sends a request to the kernel and reads its acknowledgement.
func request(link int, m []byte) error {
	if err := unix.Sendto(link, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(link, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel answered something else than asked for")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
