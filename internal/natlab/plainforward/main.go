//go:build linux

// The program plainforward is the baseline of the bench: what one writes first
// when UDP has to go from here to there. Two of them make a pair, joined by one
// flow between two fixed ports (so both NATs open when both send), and each
// datagram costs a system call to read and one to write.
//
//	plainforward -bind ADDR -peer ADDR -listen ADDR    the clients' side
//	plainforward -bind ADDR -peer ADDR -to ADDR        the service's side
//
// With -aes each datagram is sealed by AES-256-GCM, 28 bytes more: the cost of the
// cipher alone, for the key is everybody's.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "plainforward:", err)
		os.Exit(1)
	}
}

// hello opens the NATs: a datagram of one byte, which no client's is.
var hello = []byte{0}

const (
	helloEvery = 50 * time.Millisecond
	readBuffer = 4 << 20
)

func run() error {
	var bind, peer, listen, to netip.AddrPort
	flag.TextVar(&bind, "bind", netip.AddrPort{}, "`address:port` that the pair's flow goes from")
	flag.TextVar(&peer, "peer", netip.AddrPort{}, "`address:port` that it goes to: the other one, as seen from here")
	flag.TextVar(&listen, "listen", netip.AddrPort{}, "`address:port` for the client")
	flag.TextVar(&to, "to", netip.AddrPort{}, "`address:port` of the service")
	sealed := flag.Bool("aes", false, "seal each datagram")
	flag.Parse()
	if !bind.IsValid() || !peer.IsValid() || listen.IsValid() == to.IsValid() {
		return errors.New("give -bind and -peer, and either -listen or -to")
	}
	flow, err := open(bind)
	if err != nil {
		return err
	}
	local, err := open(listen) // for the service, any port
	if err != nil {
		return err
	}
	p := &pair{flow: flow, local: local, peer: peer, box: box{fresh: uint64(time.Now().UnixNano())}}
	if *sealed {
		if p.box.aead, err = newAEAD(); err != nil {
			return err
		}
	}
	if to.IsValid() {
		p.client.Store(&to)
	}
	go p.greet()
	ended := make(chan error, 2)
	go func() { ended <- p.outwards() }()
	go func() { ended <- p.inwards() }()
	return <-ended
}

func open(addr netip.AddrPort) (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	return conn, conn.SetReadBuffer(readBuffer)
}

// pair is one half.
type pair struct {
	flow, local *net.UDPConn
	peer        netip.AddrPort
	client      atomic.Pointer[netip.AddrPort] // or the service
	box         box
}

// greet opens the NATs and keeps them open. It never stops: the peer may be
// heard long before it can hear us.
func (p *pair) greet() {
	for {
		// Before the peer is up the network may answer with an error.
		_, _ = p.flow.WriteToUDPAddrPort(hello, p.peer)
		time.Sleep(helloEvery)
	}
}

func (p *pair) outwards() error {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.local.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		if last := p.client.Load(); last == nil || *last != from {
			p.client.Store(&from)
		}
		// A datagram that can't be sent is lost, as on any network.
		_, _ = p.flow.WriteToUDPAddrPort(p.box.seal(buf[:n]), p.peer)
	}
}

func (p *pair) inwards() error {
	buf, heard := make([]byte, 1<<16), false
	for {
		n, _, err := p.flow.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		if !heard {
			heard = true
			fmt.Println("the peer is heard")
		}
		client := p.client.Load()
		if client == nil || n <= len(hello) {
			continue
		}
		if plain, err := p.box.open(buf[:n]); err == nil {
			_, _ = p.local.WriteToUDPAddrPort(plain, *client)
		}
	}
}
