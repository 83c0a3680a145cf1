package relay

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// fakeConn records what is written and, where deliver is set, hands it on.
type fakeConn struct {
	addr    netip.AddrPort
	deliver func(dgram.Burst) error

	mu   sync.Mutex
	sent []dgram.Burst
}

func (c *fakeConn) Read(*dgram.Arena) ([]dgram.Burst, error) { return nil, net.ErrClosed }
func (c *fakeConn) LocalAddr() netip.AddrPort                { return c.addr }
func (c *fakeConn) SetReadDeadline(time.Time) error          { return nil }
func (c *fakeConn) Close() error                             { return nil }

func (c *fakeConn) Write(b dgram.Burst) error {
	b.Buf = bytes.Clone(b.Buf)
	c.mu.Lock()
	c.sent = append(c.sent, b)
	c.mu.Unlock()
	if c.deliver != nil {
		return c.deliver(b)
	}
	return nil
}

// take gives what was sent since the last take.
func (c *fakeConn) take() []dgram.Burst {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.sent
	c.sent = nil
	return sent
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var (
	relayAddr  = addr("203.0.113.10:443")
	homeAddr   = addr("198.51.100.2:40112")
	laptopAddr = addr("192.0.2.7:51000")
	otherAddr  = addr("192.0.2.99:9")
)

// table is a Server with one allocation and one conn.
type table struct {
	*Server
	t     *testing.T
	conn  *fakeConn
	alloc Allocation
	count [2]uint64
}

func newTable(t *testing.T, l Limits) *table {
	t.Helper()
	tb := &table{Server: NewServer(l), t: t, conn: &fakeConn{addr: relayAddr}}
	var err error
	if tb.alloc, err = tb.Allocate(time.Now(), "home", "laptop"); err != nil {
		t.Fatal(err)
	}
	return tb
}

// bindOf is the next valid bind of a leg.
func (tb *table) bindOf(leg int) []byte {
	tb.count[leg]++
	return makeBind(tb.alloc, leg, tb.count[leg])
}

func makeBind(a Allocation, leg int, counter uint64) []byte {
	b := proto.Bind{Allocation: a.ID, Leg: uint8(leg), Counter: counter}
	b.MAC = seal.BindMAC(a.Keys[leg][:], b)
	return proto.AppendBind(nil, b)
}

// from lets one datagram come in.
func (tb *table) from(a netip.AddrPort, d []byte) bool {
	return tb.Receive(tb.conn, dgram.One(a, d))
}

// bindBoth binds home to leg 0 and laptop to leg 1 and forgets the answers.
func (tb *table) bindBoth() {
	tb.from(homeAddr, tb.bindOf(0))
	tb.from(laptopAddr, tb.bindOf(1))
	tb.conn.take()
}

// bounds checks that all that was sent are genuine answers, and gives them.
func (tb *table) bounds() (to []netip.AddrPort, bounds []proto.Bind) {
	tb.t.Helper()
	for _, b := range tb.conn.take() {
		got, err := proto.ParseBind(b.Buf)
		if err != nil || !got.Bound || !seal.CheckBind(tb.alloc.Keys[got.Leg][:], got) {
			tb.t.Fatalf("to %v: %x is no genuine answer (%v)", b.Addr, b.Buf, err)
		}
		to, bounds = append(to, b.Addr), append(bounds, got)
	}
	return to, bounds
}

func (tb *table) wantDrops(why reason, n uint64) {
	tb.t.Helper()
	if got := tb.Stats().Drops[reasonNames[why]]; got != n {
		tb.t.Errorf("drops for %s: %d, want %d; all: %v", reasonNames[why], got, n, tb.Stats().Drops)
	}
}

// wantSent checks that exactly these datagrams went to one address.
func (tb *table) wantSent(to netip.AddrPort, want ...string) {
	tb.t.Helper()
	var got []string
	for _, b := range tb.conn.take() {
		if b.Addr != to {
			tb.t.Errorf("sent %q to %v, want only to %v", b.Buf, b.Addr, to)
		}
		for d := range b.All() {
			got = append(got, string(d))
		}
	}
	if len(got) != len(want) {
		tb.t.Fatalf("sent %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			tb.t.Errorf("datagram %d is %q, want %q", i, got[i], want[i])
		}
	}
}
