package icmp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	icmpFilter = 1 // of SOL_RAW (linux/icmp.h)
	maxMessage = 1500
)

type socket struct {
	conn *net.IPConn
	buf  [maxMessage]byte
}

// Open opens a raw socket; that takes CAP_NET_RAW.
func Open() (Conn, error) {
	conn, err := net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4zero})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("open a raw socket for ICMP: %w; run it as root, or give it the privilege: setcap cap_net_raw+ep on the program", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open a raw socket for ICMP: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var set error
		err = raw.Control(func(fd uintptr) {
			mask := uint32(0xffffffff &^ (1 << typeExceeded))
			set = unix.SetsockoptInt(int(fd), unix.SOL_RAW, icmpFilter, int(int32(mask)))
		})
		err = errors.Join(err, os.NewSyscallError("setsockopt ICMP_FILTER", set))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &socket{conn: conn}, nil
}

// Send is Conn's.
func (s *socket) Send(to netip.Addr, message []byte) error {
	_, err := s.conn.WriteToIP(message, &net.IPAddr{IP: to.AsSlice()})
	return err
}

// Receive is Conn's.
func (s *socket) Receive() (netip.Addr, []byte, error) {
	n, from, err := s.conn.ReadFromIP(s.buf[:])
	if err != nil {
		return netip.Addr{}, nil, err
	}
	ip, _ := netip.AddrFromSlice(from.IP)
	return ip.Unmap(), s.buf[:n], nil
}

// Close is Conn's.
func (s *socket) Close() error { return s.conn.Close() }
