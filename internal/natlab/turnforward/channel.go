//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
)

// channel is one client, bound to a channel of the allocation.
type channel struct {
	number uint16
	conn   dgram.Conn // to the service
}

// read takes what comes from the server.
func (f *forwarder) read() error {
	var arena dgram.Arena
	out := make([]byte, 0, dgram.MaxBytes)
	for {
		bursts, err := f.conn.Read(&arena)
		if err != nil {
			return err
		}
		for _, b := range bursts {
			if b.Addr != f.server {
				continue
			}
			if len(b.Buf) < channelSize || b.Buf[0]>>6 != 1 {
				for datagram := range b.All() {
					f.message(datagram)
				}
				continue
			}
			f.data(b, out)
		}
	}
}

// data carries a burst of ChannelData to the service. What is of another
// channel than the first of it, or no ChannelData, goes by itself.
func (f *forwarder) data(b dgram.Burst, out []byte) {
	first := binary.BigEndian.Uint16(b.Buf)
	for datagram := range b.All() {
		if len(datagram) >= channelSize && datagram[0]>>6 != 1 {
			f.message(datagram)
			continue
		}
		if len(datagram) < channelSize {
			continue
		}
		if n := binary.BigEndian.Uint16(datagram); n != first {
			f.deliver(n, dgram.One(f.to, datagram[channelSize:]))
			continue
		}
		out = append(out, datagram[channelSize:]...)
	}
	f.deliver(first, dgram.Burst{Addr: f.to, Buf: out, Size: b.Size - channelSize})
}

func (f *forwarder) deliver(number uint16, b dgram.Burst) {
	if number < firstChannel || number >= firstChannel+channels || len(b.Buf) == 0 {
		return
	}
	f.mu.Lock()
	c := f.byChannel[number-firstChannel]
	f.mu.Unlock()
	if c != nil {
		_ = c.conn.Write(b) // lost, as on any network
	}
}

// message takes what is no ChannelData: answers, and data of a client that has
// no channel yet.
func (f *forwarder) message(b []byte) {
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if err := m.Decode(); err != nil {
		return
	}
	if m.Type.Class != stun.ClassIndication {
		select {
		case f.answers <- m:
		default: // nobody asks
		}
		return
	}
	var peer stun.XORMappedAddress
	data, err := m.Get(stun.AttrData)
	if err != nil || peer.GetFromAs(m, stun.AttrXORPeerAddress) != nil {
		return
	}
	ip, ok := netip.AddrFromSlice(peer.IP)
	if !ok {
		return
	}
	c, err := f.channel(netip.AddrPortFrom(ip.Unmap(), uint16(peer.Port)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "turnforward:", err)
		return
	}
	_ = c.conn.Write(dgram.One(f.to, data))
}

// channel finds a client's channel, or binds one. The answer is not waited
// for: until the server has bound it, data comes as indications, and what we
// send is lost.
func (f *forwarder) channel(peer netip.AddrPort) (*channel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.byPeer[peer]; c != nil {
		return c, nil
	}
	if f.next == channels {
		return nil, fmt.Errorf("bind a channel for %v: all %d are bound", peer, channels)
	}
	conn, err := f.system.ListenUDP(netip.AddrPortFrom(f.to.Addr(), 0))
	if err != nil {
		return nil, err
	}
	c := &channel{number: firstChannel + uint16(f.next), conn: conn}
	request, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodChannelBind, stun.ClassRequest),
		raw(stun.AttrChannelNumber, byte(c.number>>8), byte(c.number), 0, 0), peerAddress(peer))
	if err == nil {
		err = f.conn.Write(dgram.One(f.server, request.Raw))
	}
	if err != nil {
		return nil, fmt.Errorf("bind a channel for %v: %w", peer, err)
	}
	f.byPeer[peer], f.byChannel[f.next] = c, c
	f.next++
	go f.answersOf(c)
	return c, nil
}

// answersOf carries the service's datagrams back to one client.
func (f *forwarder) answersOf(c *channel) {
	var arena dgram.Arena
	for {
		bursts, err := c.conn.Read(&arena)
		if err != nil {
			return
		}
		for _, b := range bursts {
			out := make([]byte, 0, dgram.MaxBytes)
			size := b.Size + channelSize
			for datagram := range b.All() {
				if len(out)+channelSize+len(datagram) > dgram.MaxBytes {
					_ = f.conn.Write(dgram.Burst{Addr: f.server, Buf: out, Size: size})
					out = out[:0]
				}
				out = binary.BigEndian.AppendUint16(out, c.number)
				out = binary.BigEndian.AppendUint16(out, uint16(len(datagram)))
				out = append(out, datagram...)
			}
			_ = f.conn.Write(dgram.Burst{Addr: f.server, Buf: out, Size: size})
		}
	}
}
