package quicflow

import (
	"encoding/binary"
	"net"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// bursting is a conn that QUIC writes whole bursts to and reads several
// datagrams a call from, as it does with a kernel's socket that has UDP_SEGMENT
// and recvmmsg. Without this quic-go seals and hands
// over packets one by one, at half the speed.
type bursting struct{ *conn }

// offloaded is c as QUIC uses it best on this system.
func offloaded(c *conn) net.PacketConn {
	return bursting{c}
}

// WriteMsgUDP sends a burst whose stride is in oob, as UDP_SEGMENT, or one
// datagram. It seals and sends on the caller's goroutine, which QUIC has for
// nothing else (quic.OOBCapablePacketConn).
func (c bursting) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	size := segmentSize(oob)
	if size == 0 || size > len(b) {
		size = len(b)
	}
	only := ruleOf(addr)
	if c.tooLarge(only, size) {
		return len(b), len(oob), nil
	}
	buf := bursts.Get().(*[]byte)
	out := (*buf)[:0]
	for rest := b; len(rest) > 0; {
		d := rest[:min(size, len(rest))]
		rest = rest[len(d):]
		out = append(append(out, byte(only)), d...)
		if len(out) >= room(size+prefix) || len(rest) == 0 {
			c.send(only, dgram.Burst{Buf: out, Size: min(size+prefix, len(out))})
			out = out[:0]
		}
	}
	*buf = out
	bursts.Put(buf)
	return len(b), len(oob), nil
}

// bursts has buffers for what QUIC writes at once: 20 KiB
// (protocol.MaxLargePacketBufferSize) and prefixes.
var bursts = sync.Pool{New: func() any { b := make([]byte, 0, 24<<10); return &b }}

// segmentSize finds the stride among the control messages.
func segmentSize(oob []byte) int {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(data) >= 2 {
			return int(binary.NativeEndian.Uint16(data))
		}
		oob = rest
	}
	return 0
}

// ReadBatch waits for a datagram and gives it with those behind it, as
// ipv4.PacketConn does.
func (c bursting) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if err := c.in.wait(); err != nil {
		return 0, err
	}
	for i := range ms {
		n, addr, ok := c.in.pop(ms[i].Buffers[0])
		if !ok {
			return i, nil
		}
		ms[i].N, ms[i].NN, ms[i].Addr = n, 0, addr
	}
	return len(ms), nil
}

// ReadMsgUDP is not called where there is a ReadBatch
// (quic.OOBCapablePacketConn).
func (c bursting) ReadMsgUDP(b, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if err := c.in.wait(); err != nil {
		return 0, 0, 0, nil, err
	}
	n, addr, _ = c.in.pop(b)
	return n, 0, 0, addr, nil
}
