package rendezvous

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/relay"
	"rendezvous/internal/seal"
	"rendezvous/internal/sources"
	"rendezvous/proto"
)

// countingConn counts what is written.
type countingConn struct {
	datagrams, writes int
	last              dgram.Burst
}

func (c *countingConn) Read(*dgram.Arena) ([]dgram.Burst, error) { return nil, net.ErrClosed }
func (c *countingConn) LocalAddr() netip.AddrPort                { return wgPort }
func (c *countingConn) SetReadDeadline(time.Time) error          { return nil }
func (c *countingConn) Close() error                             { return nil }
func (c *countingConn) Write(b dgram.Burst) error {
	c.datagrams += b.Len()
	c.writes++
	c.last = b
	return nil
}

// crowd is a table with many clients, whose sockets are not there: what is left
// is what the coordinator itself holds and does.
type crowd struct {
	tb     testing.TB
	relay  *relay.Server
	table  *publicTable
	agents *countingConn
	door   *publicDoor
	out    *countingConn
}

func newCrowd(tb testing.TB, sealed bool) *crowd {
	c := &crowd{tb: tb, relay: relay.NewServer(relay.Limits{}), agents: &countingConn{}, out: &countingConn{}}
	rule := PublishRule{MaxClients: 1 << 20, NewClients: 1e9, NewClientsSource: 1e9}
	c.table = newPublicTable(publicSetup{c.relay, rule, sealed, func() {}, func() {}}, sources.NewBuckets())
	c.table.arrived(time.Now(), "wg", false, publicGrant{terms: &relay.Terms{Member: "home", Keepalive: publicKeepalive}, spares: legsAtOnce})
	c.door = &publicDoor{table: c.table, conn: c.out, clients: map[netip.AddrPort]*publicClient{}}
	return c
}

func numbered(first byte, i int) netip.AddrPort {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(first)<<24+uint32(i))
	return netip.AddrPortFrom(netip.AddrFrom4(a), 40000)
}

// fill lets n clients come, each after its spare was bound.
func (c *crowd) fill(n int) {
	c.tb.Helper()
	hello := []byte("hello")
	for i := 0; i < n; {
		for _, a := range c.table.topUp(time.Now()) {
			bind := proto.Bind{Allocation: a.ID, Counter: 1}
			bind.MAC = seal.BindMAC(a.Keys[0][:], bind)
			c.relay.Receive(c.agents, dgram.One(numbered(10, i), proto.AppendBind(nil, bind)))
			c.table.receive(c.door, dgram.One(numbered(100, i), hello))
			i++
		}
	}
	if f := c.table.figures(); f.clients < n || f.drops["new-client-rate"] > 0 {
		c.tb.Fatalf("of %d clients: %+v", n, f)
	}
}

// S3-02: 20,000 clients of one port take at most 6 KB each on the coordinator.
func TestMemoryOfAClient(t *testing.T) {
	const clients, most = 20000, 6 << 10
	for _, sealed := range []bool{false, true} {
		c := newCrowd(t, sealed)
		before := heap()
		c.fill(clients)
		each := float64(heap()-before) / clients
		t.Logf("sealed %v: %.0f bytes a client", sealed, each)
		if each > most {
			t.Errorf("a client takes %.0f bytes, want at most %d", each, most)
		}
		runtime.KeepAlive(c)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A burst is written as one burst, whoever's it is, and nothing is allocated.
func TestCrowdForwardsBursts(t *testing.T) {
	c := newCrowd(t, false)
	c.fill(1000)
	burst := dgram.Burst{Buf: make([]byte, 16*1400), Size: 1400}
	c.agents.writes, c.agents.datagrams = 0, 0
	i := 0
	allocs := testing.AllocsPerRun(1000, func() {
		burst.Addr = numbered(100, i%1000)
		c.table.receive(c.door, burst)
		i++
	})
	if allocs > 0 {
		t.Errorf("%v allocations a burst", allocs)
	}
	if c.agents.datagrams != 16*c.agents.writes || c.agents.last.Size != 1400 {
		t.Errorf("%d datagrams left in %d writes", c.agents.datagrams, c.agents.writes)
	}
}

// BenchmarkCrowd is one datagram each of 20,000 clients in turn.
func BenchmarkCrowd(b *testing.B) {
	for name, sealed := range map[string]bool{"raw": false, "sealed": true} {
		b.Run(name, func(b *testing.B) {
			c := newCrowd(b, sealed)
			c.fill(20000)
			d := make([]byte, 200)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				c.table.receive(c.door, dgram.One(numbered(100, i%20000), d))
				i++
			}
		})
	}
}
