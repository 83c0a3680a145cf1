package natlab

import (
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options of a Lab. The zero value is usable.
type Options struct {
	// Seed makes loss, jitter and random ports repeatable; 0 takes a random
	// one. A failing test prints it.
	Seed uint64
	// Hops is how many routers a datagram passes between two public networks;
	// 0 is DefaultHops, a negative one is none.
	Hops int
	// Records is how many events the recorder keeps; 0 is 4096, a negative one
	// is none: nothing is counted then either, and only Watch sees events.
	Records int
	// SocketQueue is how many bytes wait in a socket before more are dropped;
	// 0 is 4 MiB.
	SocketQueue int
	// SendBuffer is how many bytes of a TCP connection are unsent when a Write
	// waits: what TCP_NOTSENT_LOWAT is to a kernel. 0 is 64 KiB.
	SendBuffer int
}

// DefaultHops is enough that a datagram with a TTL of 3 or 4 crosses its own
// home router and carrier's NAT, and dies before the peer's.
const DefaultHops = 3

func (o Options) withDefaults() Options {
	switch {
	case o.Hops == 0:
		o.Hops = DefaultHops
	case o.Hops < 0:
		o.Hops = 0
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if o.Records == 0 {
		o.Records = 4096
	}
	if o.SocketQueue == 0 {
		o.SocketQueue = 4 << 20
	}
	if o.SendBuffer == 0 {
		o.SendBuffer = 64 << 10
	}
	return o
}

// Lab is an internet in memory: public hosts, NATs with their networks
// behind, and the links between. All its methods may be called from many
// goroutines at once.
type Lab struct {
	t        testing.TB
	options  Options
	mu       sync.Mutex // guards everything in the lab
	agenda   agenda
	recorder *recorder
	internet *segment
	hosts    []*Host
	names    map[string]bool
	delays   map[[2]*attachment]time.Duration
	lastID   uint64
	closed   bool
}

// New makes an internet with nothing on it. When the test ends it is closed,
// and when the test has failed it draws its last datagrams.
func New(t testing.TB, options Options) *Lab {
	t.Helper()
	l := &Lab{
		t:       t,
		options: options.withDefaults(),
		names:   map[string]bool{},
		delays:  map[[2]*attachment]time.Duration{},
	}
	l.recorder = newRecorder(l.options.Records)
	l.internet = newSegment(l, "internet", nil)
	l.agenda.init(l)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("natlab: seed %d; its last datagrams:\n%s", l.options.Seed, l.diagram(drawn))
		}
		l.Close()
	})
	return l
}

// Host attaches a host to the public internet. addr may carry a prefix
// length ("203.0.113.10/24").
func (l *Lab) Host(name, addr string, options ...Option) *Host {
	l.t.Helper()
	return l.internet.host(name, addr, options)
}

// NAT attaches a NAT to the public internet; hosts and further NATs attach
// behind it.
func (l *Lab) NAT(name, addr string, b Behaviour, options ...Option) *NAT {
	l.t.Helper()
	return l.internet.nat(name, addr, b, options)
}

func (l *Lab) segment() *segment { return l.internet }

// Seed is the seed in use.
func (l *Lab) Seed() uint64 { return l.options.Seed }

// Delay sets the one-way delay between two places, in place of the sum of the
// delays of their links to the internet. What stands behind a NAT takes part
// with the outermost NAT's link.
func (l *Lab) Delay(a, b Station, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, y := outermost(a.attached()), outermost(b.attached())
	l.delays[[2]*attachment{x, y}] = d
	l.delays[[2]*attachment{y, x}] = d
}

func outermost(a *attachment) *attachment {
	for a.segment.gateway != nil {
		a = a.segment.gateway.attachment
	}
	return a
}

// Close ends every socket; what is in flight vanishes.
func (l *Lab) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.agenda.clear()
	}
	l.closed = true
	for _, h := range l.hosts {
		for _, s := range h.allSockets() {
			s.closeLocked()
		}
		h.tcp.closeAll()
	}
}

// rand gives each link and each NAT a source of its own, so that what happens
// on one does not change the luck of another.
func (l *Lab) rand(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(l.options.Seed, h.Sum64()))
}

func (l *Lab) claimName(name string) {
	l.t.Helper()
	if name == "" || l.names[name] {
		l.t.Fatalf("natlab: the name %q is empty or taken; give each host and NAT one of its own", name)
	}
	l.names[name] = true
}

// parsePrefix reads an address with or without its prefix length; without, it
// is 24 bits for IPv4 and 64 for IPv6.
func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.Is4() {
		return netip.PrefixFrom(a, 24), nil
	}
	return netip.PrefixFrom(a, 64), nil
}

func (l *Lab) mustPrefixes(name string, addrs []string) []netip.Prefix {
	l.t.Helper()
	out := make([]netip.Prefix, 0, len(addrs))
	for _, s := range addrs {
		p, err := parsePrefix(s)
		if err != nil {
			l.t.Fatalf("natlab: address of %s: %v", name, err)
		}
		out = append(out, p)
	}
	return out
}
