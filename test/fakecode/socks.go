package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// dialSOCKS connects to an IPv4 address behind a SOCKS 5 proxy (RFC 1928).
func dialSOCKS(ctx context.Context, proxy, host string, port int) (_ net.Conn, err error) {
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.Is4() {
		return nil, fmt.Errorf("%q is not an IPv4 address", host)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", proxy)
	if err != nil {
		return nil, fmt.Errorf("connecting to ssh's SOCKS port: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	// Version 5, one method: no authentication.
	if _, err := conn.Write([]byte{5, 1, 0}); err != nil {
		return nil, err
	}
	var method [2]byte
	if _, err := io.ReadFull(conn, method[:]); err != nil {
		return nil, fmt.Errorf("reading the proxy's method: %w", err)
	}
	if method != [2]byte{5, 0} {
		return nil, fmt.Errorf("the proxy requires method %v", method)
	}
	// Connect to an IPv4 address.
	request := append([]byte{5, 1, 0, 1}, addr.AsSlice()...)
	if _, err := conn.Write(append(request, byte(port>>8), byte(port))); err != nil {
		return nil, err
	}
	var reply [10]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return nil, fmt.Errorf("reading the proxy's reply (is forwarding allowed?): %w", err)
	}
	if reply[1] != 0 || reply[3] != 1 {
		return nil, fmt.Errorf("the proxy refused with code %d", reply[1])
	}
	return conn, nil
}
