// Package fastpath has the kernel forward the datagrams of a raw flow between its
// client or service and its path, so that they never enter the agent (Linux 6.6
// and later, IPv4). The agent goes on probing: whatever may be a probe is its, and
// all that the kernel is not told to forward.
//
// What is in the kernel belongs to this process and ends with it, however that
// ends: programs are attached by links that nothing pins (BPF_LINK_CREATE, tcx).
package fastpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Ends are the two addresses of a conversation.
type Ends struct {
	Local, Remote netip.AddrPort
}

// Settled has a Local that is unspecified, as a socket's is that is bound to no
// address, be the one that datagrams to Remote leave from now. Nothing is sent.
func (e Ends) Settled() (Ends, error) {
	e.Local = netip.AddrPortFrom(e.Local.Addr().Unmap(), e.Local.Port())
	e.Remote = netip.AddrPortFrom(e.Remote.Addr().Unmap(), e.Remote.Port())
	if !e.Local.Addr().IsUnspecified() {
		return e, nil
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(e.Remote))
	if err != nil {
		return e, fmt.Errorf("find the route to %v: %w", e.Remote, err)
	}
	defer func() { _ = c.Close() }() // nothing was sent on it
	own, err := netip.ParseAddrPort(c.LocalAddr().String())
	e.Local = netip.AddrPortFrom(own.Addr().Unmap(), e.Local.Port())
	return e, err
}

// Flow is what the kernel shall forward.
type Flow struct {
	Near  Ends    // our socket; its client or service
	Wide  Ends    // the path's socket; the peer
	Token [8]byte // that the peer's probes carry
}

// Counts are what the kernel has forwarded: Tx from the client or service to the
// peer, Rx the other way.
type Counts struct {
	Tx, Rx Traffic
}

// Traffic is datagrams, and the bytes in them.
type Traffic struct {
	Datagrams, Bytes uint64
}

// Plus is both together.
func (c Counts) Plus(more Counts) Counts { return Counts{c.Tx.plus(more.Tx), c.Rx.plus(more.Rx)} }

func (t Traffic) plus(more Traffic) Traffic {
	return Traffic{t.Datagrams + more.Datagrams, t.Bytes + more.Bytes}
}

var (
	// ErrKernel says that this system can't do it at all.
	ErrKernel = errors.New("it takes Linux 6.6 or later, with eBPF, on a little-endian processor")
	// ErrPrivilege says that this process may not.
	ErrPrivilege = errors.New("it takes root, or CAP_BPF and CAP_NET_ADMIN")
	// errPlace says that a flow is where programs are not attached.
	errPlace = errors.New("the kernel forwards between Ethernet interfaces, and loopback addresses, alone")
	errIPv6  = errors.New("the kernel forwards IPv4 alone")
)
