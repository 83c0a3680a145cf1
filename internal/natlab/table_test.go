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
		if k != (pair{f.inside, f.remote}).key() {
			t.Fatalf("flow %+v is filed elsewhere: %v", f, k)
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
	for _, list := range table.byExt {
		n := 0
		for _, m := range list {
			if m.alive(now) {
				n++
			}
		}
		if n > 1 {
			t.Fatalf("%d mappings share %v", n, list[0].ext)
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
	if got := table.held.sessions[inside.Addr()]; got != len(table.byInside) {
		t.Errorf("%d sessions counted, %d held", got, len(table.byInside))
	}
	if got := table.held.mappings[inside.Addr()]; got != len(table.mappings) {
		t.Errorf("%d mappings counted, %d held", got, len(table.mappings))
	}
}

// What others behind the NAT take lies between two ports of ours, by the rate.
func TestTrafficTakesPorts(t *testing.T) {
	const rate, step, pause = 10, 2, 500 * time.Millisecond
	table := newTable(Behaviour{Mapping: AddressAndPortDependent, Ports: Sequential(step, 1024, 65535), Traffic: rate},
		[]netip.Addr{netip.MustParseAddr("198.51.100.1")}, rand.New(rand.NewPCG(3, 1)))
	now, inside := time.Unix(0, 0), netip.MustParseAddrPort("10.0.0.1:5000")
	var ports []int
	const mappings = 400
	for i := range mappings {
		now = now.Add(pause)
		v := table.outbound(now, inside, netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, 0, byte(i >> 8), byte(i)}), 1))
		ports = append(ports, int(v.addr.Port()))
	}
	sum, least := 0, 1<<16
	for i := range ports[1:] {
		gap := ports[i+1] - ports[i]
		sum, least = sum+gap, min(least, gap)
	}
	want := float64(step) * (1 + rate*pause.Seconds())
	if mean := float64(sum) / (mappings - 1); mean < 0.9*want || mean > 1.1*want || least < step {
		t.Errorf("two mappings %v apart are %.1f ports apart, at least %d; want %.0f, at least %d", pause, mean, least, want, step)
	}
	if v := table.outbound(now, inside, netip.MustParseAddrPort("20.1.0.1:1")); int(v.addr.Port()) != ports[mappings-1]+step {
		t.Errorf("two mappings of one instant have the ports %d and %d", ports[mappings-1], v.addr.Port())
	}
}

func TestTableKeepsWhatForgetSpares(t *testing.T) {
	table := newTable(Behaviour{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent, Ports: Random(1024, 65535), Unsolicited: AcceptUnsolicited},
		[]netip.Addr{netip.MustParseAddr("198.51.100.1")}, rand.New(rand.NewPCG(2, 1)))
	now, inside := time.Unix(0, 0), netip.MustParseAddrPort("10.0.0.1:5000")
	spared, other := netip.MustParseAddrPort("20.0.0.1:1"), netip.MustParseAddrPort("20.0.0.2:1")
	kept, gone := table.outbound(now, inside, spared), table.outbound(now, inside, other)
	table.inbound(now, other, kept.addr) // accepted, and held
	table.forget(func(remote netip.AddrPort) bool { return remote == spared })
	if v := table.inbound(now, spared, kept.addr); v.addr != inside {
		t.Errorf("what was to be kept is %s", v.why)
	}
	if v := table.inbound(now, other, gone.addr); v.why == "" {
		t.Error("what was to be forgotten still lets in")
	}
	if f, m, s := len(table.byInside), table.held.mappings[inside.Addr()], table.held.sessions[inside.Addr()]; f != 1 || m != 1 || s != 1 {
		t.Errorf("%d flows, %d mappings, %d sessions are left of one", f, m, s)
	}
}
