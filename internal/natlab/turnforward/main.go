//go:build linux

// The program turnforward puts a service behind a foreign TURN server, as one
// does without us: it allocates a relayed address (RFC 8656), which plain
// clients send to, and carries their datagrams to the service and back, each
// client on a channel and with a socket of its own. It moves bursts, so that
// what is measured is the server.
//
//	turnforward -server ADDR -to ADDR -clients IP,IP
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "turnforward:", err)
		os.Exit(1)
	}
}

func run() error {
	var server, to netip.AddrPort
	flag.TextVar(&server, "server", netip.AddrPort{}, "`address:port` of the TURN server, which asks for no credentials")
	flag.TextVar(&to, "to", netip.AddrPort{}, "`address:port` of the service")
	clients := flag.String("clients", "", "`IPs` that clients come from, with commas between")
	flag.Parse()
	if !server.IsValid() || !to.IsValid() || *clients == "" {
		return errors.New("give -server, -to and -clients")
	}
	var from []netip.Addr
	for word := range strings.SplitSeq(*clients, ",") {
		ip, err := netip.ParseAddr(word)
		if err != nil {
			return fmt.Errorf("read -clients: %w", err)
		}
		from = append(from, ip)
	}
	system := dgram.System(dgram.DefaultOptions())
	conn, err := system.ListenUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		return err
	}
	f := &forwarder{
		system: system, conn: conn, server: server, to: to, from: from,
		answers: make(chan *stun.Message, 16), byPeer: map[netip.AddrPort]*channel{},
	}
	ended := make(chan error, 2)
	go func() { ended <- f.read() }()
	go func() { ended <- f.keep() }()
	return <-ended
}

// forwarder is one allocation.
type forwarder struct {
	system  dgram.Network
	conn    dgram.Conn // to the server
	server  netip.AddrPort
	to      netip.AddrPort
	from    []netip.Addr
	answers chan *stun.Message

	mu        sync.Mutex
	byPeer    map[netip.AddrPort]*channel
	byChannel [channels]*channel // from firstChannel on
	next      int
}

// Numbers of RFC 8656: channels are 0x4000 to 0x4fff (12), their data begins
// with four bytes (12.4), UDP is protocol 17 (18.8).
const (
	firstChannel = 0x4000
	channels     = 0x1000
	channelSize  = 4
	udp          = 17
)

const (
	// refreshEvery is well within a permission's 5 min (RFC 8656 section 9)
	// and an allocation's 10 (section 3.2).
	refreshEvery = 2 * time.Minute
	answerIn     = 500 * time.Millisecond
	tries        = 7
)

// keep makes the allocation and keeps it.
func (f *forwarder) keep() error {
	answer, err := f.ask(stun.MethodAllocate, raw(stun.AttrRequestedTransport, udp, 0, 0, 0))
	if err != nil {
		return err
	}
	var relayed stun.XORMappedAddress
	if err := relayed.GetFromAs(answer, stun.AttrXORRelayedAddress); err != nil {
		return fmt.Errorf("read the relayed address: %w", err)
	}
	for first := true; ; first = false {
		if !first {
			if _, err := f.ask(stun.MethodRefresh); err != nil {
				return err
			}
		}
		for _, ip := range f.from {
			if _, err := f.ask(stun.MethodCreatePermission, peerAddress(netip.AddrPortFrom(ip, 0))); err != nil {
				return err
			}
		}
		if first {
			fmt.Printf("relayed at %v\n", relayed)
		}
		time.Sleep(refreshEvery)
	}
}

// ask makes a request and waits for its answer.
func (f *forwarder) ask(method stun.Method, attributes ...stun.Setter) (*stun.Message, error) {
	request, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attributes...)...)
	if err != nil {
		return nil, err
	}
	for range tries {
		if err := f.conn.Write(dgram.One(f.server, request.Raw)); err != nil {
			return nil, err
		}
		for timeout := time.After(answerIn); ; {
			select {
			case m := <-f.answers:
				if m.TransactionID != request.TransactionID {
					continue
				}
				if m.Type.Class != stun.ClassSuccessResponse {
					return nil, fmt.Errorf("%v of %v is refused: %v", method, f.server, m)
				}
				return m, nil
			case <-timeout:
			}
			break
		}
	}
	return nil, fmt.Errorf("%v of %v: no answer to %d requests; does a TURN server run there?", method, f.server, tries)
}

func raw(t stun.AttrType, value ...byte) stun.Setter {
	return stun.RawAttribute{Type: t, Value: value}
}

// peerAddress is XOR-PEER-ADDRESS, which has the form of XOR-MAPPED-ADDRESS.
type peerAddress netip.AddrPort

// AddTo is that of stun.Setter.
func (a peerAddress) AddTo(m *stun.Message) error {
	p := netip.AddrPort(a)
	return stun.XORMappedAddress{IP: p.Addr().AsSlice(), Port: int(p.Port())}.AddToAs(m, stun.AttrXORPeerAddress)
}
