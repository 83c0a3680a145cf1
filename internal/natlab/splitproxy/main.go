//go:build linux

// The program splitproxy is a transparent proxy that splits TCP connections, as
// accelerators on satellite links do: what nftables redirects to it is accepted
// here, and opened anew to where it led. Both halves acknowledge by themselves,
// and the stream between them is cut anew.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dialLimit is how long the far half may take.
const dialLimit = 10 * time.Second

func main() {
	listen := flag.String("listen", "0.0.0.0:3129", "`address:port` that connections are redirected to")
	flag.Parse()
	fmt.Fprintln(os.Stderr, "splitproxy:", serve(*listen))
	os.Exit(1)
}

// serve splits connections until the listener fails.
func serve(addr string) error {
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := split(c.(*net.TCPConn)); err != nil {
				fmt.Fprintln(os.Stderr, "splitproxy:", err)
			}
		}()
	}
}

// split carries one connection until both directions have ended.
func split(near *net.TCPConn) error {
	defer near.Close()
	to, err := led(near)
	if err != nil {
		return fmt.Errorf("ask where a connection of %v led: %w", near.RemoteAddr(), err)
	}
	conn, err := net.DialTimeout("tcp4", to.String(), dialLimit)
	if err != nil {
		return err
	}
	far := conn.(*net.TCPConn)
	defer far.Close()
	back := make(chan error, 1)
	go func() { back <- carry(near, far) }()
	return errors.Join(carry(far, near), <-back)
}

func carry(to, from *net.TCPConn) error {
	_, err := io.Copy(to, from)
	return errors.Join(err, to.CloseWrite())
}

// led is the destination that a connection had before it was redirected.
func led(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	// The kernel has no getsockopt for a bare sockaddr_in in this package;
	// IPv6Mreq is as large, and its first bytes are the sockaddr's.
	var m *unix.IPv6Mreq
	var inner error
	err = raw.Control(func(fd uintptr) {
		m, inner = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST)
	})
	if err := errors.Join(err, inner); err != nil {
		return netip.AddrPort{}, err
	}
	b := m.Multiaddr // family, port, address
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
}
