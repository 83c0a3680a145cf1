package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/internal/seal"
	"rendezvous/internal/session"
	"rendezvous/proto"
)

// nowhere is a conn that sends into the void.
type nowhere struct{ at netip.AddrPort }

func (nowhere) Read(*dgram.Arena) ([]dgram.Burst, error) { select {} }
func (nowhere) Write(dgram.Burst) error                  { return nil }
func (c nowhere) LocalAddr() netip.AddrPort              { return c.at }
func (nowhere) SetReadDeadline(time.Time) error          { return nil }
func (nowhere) Close() error                             { return nil }

// receiver is an endpoint with one session, and all the keys of its peer.
type receiver struct {
	*endpoint
	s      *session.Session
	keys   seal.ProbeKeys // the peer's
	sealer *seal.Sealer   // the peer's
	alloc  *proto.Allocation
	sealed map[uint64][]byte // what the peer sealed, by counter
	got    [][]byte
}

func (r *receiver) Deliver(_ uint16, b dgram.Burst) {
	for d := range b.All() {
		r.got = append(r.got, bytes.Clone(d))
	}
}
func (r *receiver) Frame(*proto.Frame)  {}
func (r *receiver) Event(session.Event) {}

// The kinds of endpoint.
const (
	mainSocket = iota
	relayLeg
	rawSocket
	endpointKinds
)

var relayAt = netip.MustParseAddrPort("203.0.113.10:443")

func newReceiver(t *testing.T, kind int) *receiver {
	t.Helper()
	secret := seal.Secret{1}
	seed := bytes.Repeat([]byte{2}, 32)
	r := &receiver{keys: seal.DeriveProbeKeys(seed, secret, true), sealed: make(map[uint64][]byte)}
	r.s = session.New(session.Config{Probe: seal.DeriveProbeKeys(seed, secret, false), Raw: kind == rawSocket, Handler: r})
	keys := seal.Keys{Receive: [32]byte{3}, Send: [32]byte{4}}
	r.sealer = seal.NewSealer(keys.Receive, keys.Cipher)
	if kind != rawSocket {
		r.s.Establish(keys)
	}
	conn := nowhere{netip.MustParseAddrPort("0.0.0.0:1")}
	board := newSwitchboard()
	board.add(r.s)
	board.setSTUN([]netip.AddrPort{relayAt}, nil)
	r.endpoint = newEndpoint(conn, path.DirectUDP, board)
	switch kind {
	case relayLeg:
		r.alloc = &proto.Allocation{Id: make([]byte, 8), Key: make([]byte, 32), Relay: []*proto.Endpoint{proto.NewEndpoint(relayAt)}}
		leg, err := relay.NewLeg(conn, relayAt, r.alloc)
		if err != nil {
			t.Fatal(err)
		}
		r.owner, r.leg = r.s, leg
	case rawSocket:
		r.owner = r.s
	}
	return r
}

// datagram makes what an operation of the fuzzer's asks for.
func (r *receiver) datagram(op byte, arg uint16, rest []byte) []byte {
	counter := uint64(arg)
	switch op % 8 {
	case 0, 1:
		size := 0
		if arg%7 == 0 {
			size = 1200
		}
		body := proto.ProbeBody{Next: uint64(arg) * 3, Received: counter, Echo: counter, Epoch: op / 8 % 4}
		return r.keys.Seal(nil, op%8 == 1, counter, body, size)
	case 2:
		if r.sealed[counter] == nil {
			r.sealed[counter] = fmt.Appendf(nil, "sealed by the peer as number %d: %x", counter, rest)
		}
		return r.sealer.Seal(nil, op/8%2, arg%300, counter, r.sealed[counter])
	case 3:
		return r.sealer.Seal(nil, op/8%2, proto.ControlFlow, counter, rest)
	case 4:
		var id proto.Token
		return proto.AppendBind(nil, proto.Bind{Bound: op&8 != 0, Allocation: id, Leg: op / 16 & 1, Counter: counter})
	case 5:
		return append([]byte{op & 1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, rest...)
	case 6:
		return bytes.Repeat([]byte{op}, int(arg))
	}
	return bytes.Clone(rest)
}

// FuzzReceive throws at each kind of endpoint what strangers, a replaying
// attacker and a broken peer may send, from any address: genuine, replayed,
// reordered, changed, truncated and oversized datagrams and plain garbage,
// alone and as bursts.
func FuzzReceive(f *testing.F) {
	f.Add(byte(mainSocket), []byte("0000000000000000"))
	for kind := range byte(endpointKinds) {
		var b []byte
		for op := range byte(64) {
			b = append(b, op, 0, op, op%5, op, 4, 'a', 'b', 'c', 'd')
		}
		f.Add(kind, b)
	}
	f.Fuzz(func(t *testing.T, kind byte, input []byte) {
		r := newReceiver(t, int(kind%endpointKinds))
		for len(input) >= 6 {
			op, arg, from, how := input[0], binary.BigEndian.Uint16(input[1:]), input[3], input[4]
			n := min(int(input[5]), len(input)-6)
			d := r.datagram(op, arg, input[6:6+n])
			input = input[6+n:]
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, from % 64}), 1+uint16(from)*7)
			if from%3 == 0 {
				addr = relayAt
			}
			r.receive(burstFor(addr, d, how))
		}
		r.check(t, kind%endpointKinds)
	})
}

// burstFor spoils a datagram, and makes a burst of it.
func burstFor(from netip.AddrPort, d []byte, how byte) dgram.Burst {
	if how&1 != 0 && len(d) > 0 {
		d[int(how)%len(d)] ^= 1 << (how % 8)
	}
	if how&2 != 0 {
		d = d[:len(d)-len(d)*int(how>>4)/16]
	}
	one := dgram.One(from, d)
	if how&4 == 0 || len(d) == 0 {
		return one
	}
	// The same thrice and a piece of it.
	buf := append(bytes.Repeat(d, 3), d[:len(d)*int(how>>4)/16]...)
	return dgram.Burst{Addr: from, Buf: buf, Size: len(d)}
}

func (r *receiver) check(t *testing.T, kind byte) {
	t.Helper()
	r.mu.RLock()
	routed := len(r.byAddr)
	r.mu.RUnlock()
	if routed > 64 {
		t.Errorf("%d addresses are routed", routed)
	}
	if n := len(r.s.Paths()); n > 32 {
		t.Errorf("%d paths", n)
	}
	if kind == rawSocket {
		return // its payload is whatever comes from a proven address
	}
	times := map[string]int{}
	for _, d := range r.got {
		times[string(d)]++
	}
	for _, d := range r.sealed {
		if n := times[string(d)]; n > 1 {
			t.Errorf("%q was delivered %d times", d, n)
		}
	}
}
