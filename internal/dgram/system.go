package dgram

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// Options say how sockets are made.
type Options struct {
	// Offload lets the kernel cut bursts into datagrams (UDP_SEGMENT) and
	// merge datagrams into bursts (UDP_GRO), where it can. The environment's
	// RENDEZVOUS_NO_OFFLOAD=1 overrides it.
	Offload bool
	// Portable takes the implementation for platforms other than Linux: one
	// datagram a system call.
	Portable bool
	// ReadBuffer and WriteBuffer are the kernel's buffers for one socket, in
	// bytes; 0 is DefaultBuffer. Without privilege the kernel may give less.
	ReadBuffer, WriteBuffer int
	// Device is the one interface that sockets send and receive by
	// (SO_BINDTODEVICE, Linux); empty: the routes choose.
	Device string
}

// DefaultBuffer holds about 20 ms of a link of 1.5 Gbit/s, the longest that a
// busy reader is expected to stay away.
const DefaultBuffer = 4 << 20

// patience bounds how long a write waits for room: what can't leave in this
// time is dropped, as a full queue anywhere on the way would drop it.
const patience = 20 * time.Millisecond

// EnvNoOffload is the environment variable that turns offload off when it is 1.
const EnvNoOffload = "RENDEZVOUS_NO_OFFLOAD"

// DefaultOptions turn on all that is fast.
func DefaultOptions() Options {
	return Options{Offload: true, ReadBuffer: DefaultBuffer, WriteBuffer: DefaultBuffer}
}

// System is the host's own network.
func System(opts Options) Network {
	if opts.ReadBuffer == 0 {
		opts.ReadBuffer = DefaultBuffer
	}
	if opts.WriteBuffer == 0 {
		opts.WriteBuffer = DefaultBuffer
	}
	if os.Getenv(EnvNoOffload) == "1" {
		opts.Offload = false
	}
	return system{opts, newRoll()}
}

type system struct {
	opts Options
	*roll
}

// ListenUDP is Network's. All its sockets set "don't fragment" and ignore what
// ICMP says about the path's size, which the session probes itself.
func (s system) ListenUDP(addr netip.AddrPort) (Conn, error) {
	if !addr.IsValid() {
		return nil, fmt.Errorf("listen on UDP: no address given; 0.0.0.0:0 or [::]:0 takes any")
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6" // which also sets IPV6_V6ONLY
	}
	config := net.ListenConfig{Control: bindToDevice(s.opts.Device)}
	made, err := config.ListenPacket(context.Background(), network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen on UDP %v: %w", addr, err)
	}
	sock := made.(*net.UDPConn)
	conn, err := wrap(sock, s.opts)
	if err != nil {
		_ = sock.Close() // nothing was sent; its error would hide the first one
		return nil, fmt.Errorf("listen on UDP %v: %w", addr, err)
	}
	if c, ok := conn.(interface{ enrol(r *roll, s StatsReader) }); ok {
		c.enrol(s.roll, conn.(StatsReader))
	}
	return conn, nil
}

// Addrs is Network's.
func (s system) Addrs() ([]HostAddr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	flags := flagsSix()
	var all []HostAddr
	for _, ifc := range interfaces {
		addrs, err := ifc.Addrs()
		if err != nil {
			continue // it went away between the two calls
		}
		up := ifc.Flags&net.FlagUp != 0 && ifc.Flags&net.FlagRunning != 0
		for _, a := range addrs {
			if prefix, ok := prefixOf(a); ok {
				f := flags[prefix.Addr()]
				all = append(all, HostAddr{Interface: ifc.Name, Addr: prefix, Up: up && !f.unusable, Deprecated: f.deprecated})
			}
		}
	}
	return all, nil
}

// prefixOf converts what package net says of an interface's address.
func prefixOf(a net.Addr) (netip.Prefix, bool) {
	n, ok := a.(*net.IPNet)
	if !ok {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

// localOf is the address a socket is bound to.
func localOf(sock *net.UDPConn) netip.AddrPort {
	at := sock.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
