package natlab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// Whatever is sent in whatever order, no two living flows share an external
// address towards one remote, and without overloading no two living mappings
// share one at all.
func TestTableKeepsPortsApart(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 0))
		b := Behaviour{
			Mapping: rules[r.IntN(3)], Filtering: rules[r.IntN(3)], Overload: r.IntN(2) == 0,
			Ports:       []Ports{Preserved(), Sequential(2, 5000, 5020), Random(5000, 5020)}[r.IntN(3)],
			Unsolicited: Unsolicited(r.IntN(3)), InboundRefresh: r.IntN(2) == 0, Lifetime: 20 * time.Second,
		}
		t.Run(fmt.Sprintf("%+v", b), func(t *testing.T) { churn(t, r, b) })
	}
}

func churn(t *testing.T, r *rand.Rand, b Behaviour) {
	public := netip.MustParseAddr("198.51.100.1")
	table := newTable(b, []netip.Addr{public}, r)
	now := time.Unix(0, 0)
	host := func(prefix byte, n, ports int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{prefix, 0, 0, byte(r.IntN(n))}), uint16(5000+r.IntN(ports)))
	}
	for range 3000 {
		now = now.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
		inside, remote := host(10, 3, 4), host(20, 3, 3)
		if r.IntN(3) > 0 {
			v := table.outbound(now, inside, remote)
			if v.why == "" {
				back := table.inbound(now, remote, v.addr)
				if back.addr != inside {
					t.Fatalf("%v is %v to %v, but its answer goes to %v (%s)", inside, v.addr, remote, back.addr, back.why)
				}
			}
			continue
		}
		table.inbound(now, remote, netip.AddrPortFrom(public, uint16(5000+r.IntN(21))))
		checkTable(t, table, now)
	}
}

func checkTable(t *testing.T, table *table, now time.Time) {
	t.Helper()
	held := map[pair]netip.AddrPort{}
	for k, f := range table.byInside {
		if !f.alive(now) {
			continue
		}
		if k != (pair{f.inside, f.remote}) {
			t.Fatalf("flow %+v is filed as %v", f, k)
		}
		at := pair{f.ext, f.remote}
		if other, ok := held[at]; ok {
			t.Fatalf("%v and %v both hold %v towards %v", other, f.inside, f.ext, f.remote)
		}
		held[at] = f.inside
	}
	if table.behaviour.Overload {
		return
	}
	for ext, list := range table.byExt {
		if n := len(living(now, list)); n > 1 {
			t.Fatalf("%d mappings share %v", n, ext)
		}
	}
}

func TestTableForgets(t *testing.T) {
	table := newTable(Behaviour{Mapping: AddressAndPortDependent, Ports: Random(1024, 65535)}, []netip.Addr{netip.MustParseAddr("198.51.100.1")}, rand.New(rand.NewPCG(1, 1)))
	now := time.Unix(0, 0)
	inside := netip.MustParseAddrPort("10.0.0.1:5000")
	for i := range 10000 {
		now = now.Add(time.Second)
		table.outbound(now, inside, netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, 0, byte(i >> 8), byte(i)}), 1))
	}
	const most = 120 + 10 // a lifetime and the time between two sweeps, in seconds
	if n, m, e := len(table.byOutside), len(table.mappings), len(table.byExt); n > most || m > most || e > most {
		t.Errorf("the table holds %d flows, %d mappings, %d ports; at one a second and 2 min that is more than it needs", n, m, e)
	}
	if got := table.sessions[inside.Addr()]; got != len(table.byInside) {
		t.Errorf("%d sessions counted, %d held", got, len(table.byInside))
	}
}
