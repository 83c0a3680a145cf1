//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"rendezvous/internal/rendezvous"
)

// sockets are those that agents share: each has an address and a port of the
// prefix's, in turn.
type sockets struct {
	prefix netip.Prefix
	each   int

	mu   sync.Mutex
	next netip.Addr
	open []*rendezvous.Dialer
	all  []net.PacketConn
	used int // agents of the last one
}

func newSockets(prefix netip.Prefix, each int) *sockets {
	return &sockets{prefix: prefix, each: max(each, 1), next: prefix.Masked().Addr()}
}

// dialer is the one of a new agent.
func (s *sockets) dialer() (*rendezvous.Dialer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) > 0 && s.used < s.each {
		s.used++
		return s.open[len(s.open)-1], nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.next, 0)))
	if err != nil {
		return nil, fmt.Errorf("open a socket for agents: %w", err)
	}
	if s.next = s.next.Next(); !s.prefix.Contains(s.next) {
		s.next = s.prefix.Masked().Addr()
	}
	s.all = append(s.all, conn)
	s.open = append(s.open, rendezvous.NewDialer(conn))
	s.used = 1
	return s.open[len(s.open)-1], nil
}

func (s *sockets) close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.open {
		err = errors.Join(err, d.Close(), s.all[i].Close())
	}
	return err
}
