// Package gateway is a router's port mapping service on the in-memory
// internet: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD, with the faults
// that gateways in homes have. It is for tests only, and written apart from
// what it tests: it reads and writes its bytes by itself.
package gateway

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
)

// Options say what a gateway speaks, and what it does wrong.
type Options struct {
	PCP, NATPMP, UPnP bool
	// External is the address that it says it has; invalid: the NAT's.
	External netip.Addr
	// Longest is the longest lease that it grants; 0 is a day.
	Longest time.Duration
	// Taken are external ports that belong to somebody else.
	Taken []uint16
	// Answer replaces an answer over UDP; nil sends none. It may be nil itself.
	Answer func(answer []byte) []byte
	// Also is sent before each answer over UDP by another host.
	Also *natlab.Host
	// OthersOnly leaves it at that other host's.
	OthersOnly bool
	// Slow is how long it thinks.
	Slow time.Duration
	// OnlyPermanent refuses leases that end, by UPnP (code 725).
	OnlyPermanent bool
	// Page answers HTTP in its place where it returns true.
	Page func(w http.ResponseWriter, r *http.Request) bool
	// Location is where the device says to be described; empty: here.
	Location string
}

// Gateway is a running service. Its methods may be called from everywhere.
type Gateway struct {
	host    *natlab.Host
	nat     *natlab.NAT
	options Options

	mu     sync.Mutex
	born   time.Time
	skew   time.Duration
	held   map[key]*entry
	asked  []string
	random uint16
}

// key is a mapping: what is mapped, and for whom.
type key struct {
	tcp      bool
	internal netip.AddrPort
}

type entry struct {
	external uint16
	nonce    [12]byte
	text     string // that describes it, by UPnP
	ends     *time.Timer
}

// Ports of the service.
const (
	udpPort  = 5351
	ssdpPort = 1900
	httpPort = 5000
)

// Run starts the service on a host behind the NAT that it speaks for. It ends
// with the test.
func Run(t testing.TB, host *natlab.Host, nat *natlab.NAT, o Options) *Gateway {
	t.Helper()
	if o.Longest == 0 {
		o.Longest = 24 * time.Hour
	}
	g := &Gateway{host: host, nat: nat, options: o, born: time.Now(), held: make(map[key]*entry), random: 20000}
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		g.serve(t, netip.AddrPortFrom(family, udpPort), g.mapped)
	}
	if o.UPnP {
		g.serve(t, netip.AddrPortFrom(netip.IPv4Unspecified(), ssdpPort), g.searched)
		g.serveHTTP(t)
	}
	return g
}

// serve answers datagrams on one port.
func (g *Gateway) serve(t testing.TB, at netip.AddrPort, answer func(from netip.AddrPort, question []byte) []byte) {
	conn, err := g.host.ListenUDP(at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var arena dgram.Arena
		defer arena.Release()
		for {
			bursts, err := conn.Read(&arena)
			if err != nil {
				return
			}
			for _, b := range bursts {
				for d := range b.All() {
					g.reply(conn, b.Addr, answer(b.Addr, slices.Clone(d)))
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
}

// reply sends an answer, with what the options do to it.
func (g *Gateway) reply(conn dgram.Conn, to netip.AddrPort, answer []byte) {
	o := g.now()
	if answer != nil && o.Answer != nil {
		answer = o.Answer(answer)
	}
	if answer == nil {
		return
	}
	send := func() {
		if o.Also != nil {
			if other, err := o.Also.ListenUDP(conn.LocalAddr()); err == nil {
				_ = other.Write(dgram.One(to, answer))
				_ = other.Close()
			}
		}
		if !o.OthersOnly {
			_ = conn.Write(dgram.One(to, answer))
		}
	}
	if o.Slow > 0 {
		time.AfterFunc(o.Slow, send)
		return
	}
	send()
}

func (g *Gateway) serveHTTP(t testing.TB) {
	l, err := g.host.ListenTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), httpPort))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(g.page)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// Change sets other options from now on.
func (g *Gateway) Change(change func(*Options)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.options)
}

func (g *Gateway) now() Options {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.options
}

// Restart forgets all mappings and begins its clock anew.
func (g *Gateway) Restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.born = time.Now()
	for k := range g.held {
		g.remove(k)
	}
}

// Skew shifts the clock that it shows.
func (g *Gateway) Skew(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.skew += d
}

// Held are the external ports that lead inside now, by where they lead.
func (g *Gateway) Held() map[netip.AddrPort]uint16 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[netip.AddrPort]uint16)
	for k, e := range g.held {
		out[k.internal] = e.external
	}
	return out
}

// Asked are the requests that it got, in a word each.
func (g *Gateway) Asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.asked)
}

// Count is how many requests of a word it got.
func (g *Gateway) Count(word string) (n int) {
	for _, a := range g.Asked() {
		if a == word {
			n++
		}
	}
	return n
}

func (g *Gateway) note(word string) { g.asked = append(g.asked, word) }

// epoch is the time since its state began. Call it with mu held.
func (g *Gateway) epoch() uint32 {
	return uint32(max(0, (time.Since(g.born)+g.skew)/time.Second))
}

func (g *Gateway) external() netip.Addr {
	if g.options.External.IsValid() {
		return g.options.External
	}
	return g.nat.Addr()
}

// taken says whether an external port is another's than k's.
func (g *Gateway) taken(k key, port uint16) bool {
	if slices.Contains(g.options.Taken, port) {
		return true
	}
	for other, e := range g.held {
		if other.tcp == k.tcp && other != k && e.external == port && !k.internal.Addr().Is6() {
			return true
		}
	}
	return false
}

// hold makes a mapping or lengthens it; life 0 is for ever. It returns the
// external port.
func (g *Gateway) hold(k key, external uint16, life time.Duration) uint16 {
	if external == 0 {
		g.note("zero")
	}
	e := g.held[k]
	if e == nil {
		for external == 0 || g.taken(k, external) {
			g.random++
			external = g.random
		}
		e = &entry{external: external}
		g.held[k] = e
		g.publish(k, external)
	}
	if e.ends != nil {
		e.ends.Stop()
		e.ends = nil
	}
	if life > 0 {
		e.ends = time.AfterFunc(life, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.remove(k)
		})
	}
	return e.external
}

func (g *Gateway) publish(k key, external uint16) {
	switch {
	case k.internal.Addr().Is6():
		g.nat.Pinhole(k.internal)
	case k.tcp:
		g.nat.PublishTCP(external, k.internal)
	default:
		g.nat.Publish(external, k.internal)
	}
}

// remove takes a mapping back.
func (g *Gateway) remove(k key) {
	e := g.held[k]
	if e == nil {
		return
	}
	delete(g.held, k)
	if e.ends != nil {
		e.ends.Stop()
	}
	switch {
	case k.internal.Addr().Is6():
		g.nat.ClosePinhole(k.internal)
	case k.tcp:
		g.nat.UnpublishTCP(e.external)
	default:
		g.nat.Unpublish(e.external)
	}
}
