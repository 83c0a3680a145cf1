// Package simopen is the rung of TCP hole punching (RFC 5128 section 3.4): both
// agents connect to each other from ports that also listen, at the same
// instant. Where the SYNs cross each NAT sees its own host begin, and the
// kernels finish by simultaneous open (RFC 9293 section 3.5); where one side
// can be reached anyway, its listener takes the other's connection (connection
// reversal, RFC 5128 section 3.2).
package simopen

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Rung is a TCP punch prepared for one introduction.
type Rung struct {
	Net        dgram.Streams
	Local      []netip.AddrPort // ours; the ports that Listeners have
	Listeners  []net.Listener   // on those ports; Climb closes them
	Candidates []netip.AddrPort // the peer's, signed by it
	// SharedOutside: both agents have one outside address, so private
	// candidates may be tried.
	SharedOutside bool
	// Single gives each port of ours one of the candidates behind the peer's NAT
	// (path.Turn).
	Single bool
	// Aim is further addresses of the peer's NAT, of which one may lead to it:
	// our first port of their family connects to them too, at a slower pace.
	Aim []netip.AddrPort
	// Leaves: a server answered over TCP from these ports, so outgoing SYNs are
	// known to pass. It only makes the reason of a failure more exact.
	Leaves bool
	FireAt time.Time
	RTT    time.Duration // to the peer, an estimate; 0 where there is none
	// Attach takes a new conn, whose peer is not proven yet: somebody must read
	// it from now on. Release takes back one that led nowhere, and closes it.
	Attach  func(dgram.Conn, netip.AddrPort)
	Release func(dgram.Conn)
}

// Times of a climb. Each grows with the round trip.
const (
	unknownRTT = 200 * time.Millisecond
	// window is how long to go on: the kernel's own repetitions of a lost SYN
	// (1 s, 3 s) are in it.
	window = 5 * time.Second
	// fresh is when a SYN that nothing answered gives way to a new one, long
	// before the kernel would repeat it. A new sequence number is as good to a
	// NAT that has seen no answer yet.
	fresh = 250 * time.Millisecond
	// proof is how long the peer has to prove itself on a new connection.
	proof = 2 * time.Second
	// agree is how long connections that aren't proven yet outlive the first
	// that is: the peer may have proven another one first, and would lose it.
	agree = 300 * time.Millisecond
)

func (r *Rung) rtt() time.Duration {
	if r.RTT <= 0 {
		return unknownRTT
	}
	return r.RTT
}

// Kind is direct-tcp.
func (r *Rung) Kind() path.Kind { return path.DirectTCP }

// Climb connects to every candidate from the agreed instant on, and takes what
// connects to us, until a peer has proven itself on a connection or the window
// is over. Connections proven besides the first stay attached too.
func (r *Rung) Climb(ctx context.Context, try path.Try) error {
	defer r.closeListeners()
	allowed, refused := path.Permitted(r.Candidates, r.SharedOutside, path.DefaultBudget)
	if len(allowed) == 0 {
		return noCandidates(refused)
	}
	if len(r.pairs(allowed)) == 0 {
		return &path.Failure{Reason: "no-candidates", Skipped: true,
			Evidence: "this host and the peer have no address family in common for TCP",
			Advice:   "IPv4 or IPv6 on both sides would do"}
	}
	c := newClimb(r, try, allowed)
	var listening sync.WaitGroup
	for _, l := range r.Listeners { // from now on: the peer's clock may be ahead
		listening.Go(func() { c.accept(ctx, l) })
	}
	patience := max(window, 8*r.rtt())
	c.run(ctx, patience)
	r.closeListeners()
	listening.Wait()
	c.settle(context.WithoutCancel(ctx))
	switch {
	case c.proven():
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return c.explain(patience)
}

func (r *Rung) closeListeners() {
	for _, l := range r.Listeners {
		_ = l.Close() // whoever still comes is nobody that we wait for
	}
}

// pair is one 4-tuple to try.
type pair struct{ local, remote netip.AddrPort }

func (r *Rung) pairs(allowed []netip.AddrPort) (all []pair) {
	for _, remote := range allowed {
		i := 0
		for _, local := range r.Local {
			if local.Addr().Unmap().Is4() != remote.Addr().Is4() {
				continue
			}
			if !r.Single || path.Turn(i, remote, allowed) {
				all = append(all, pair{local, remote})
			}
			i++
		}
	}
	for _, remote := range r.Aim {
		for _, local := range r.Local {
			if local.Addr().Unmap().Is4() == remote.Addr().Is4() {
				all = append(all, pair{local, remote})
				break
			}
		}
	}
	return all
}
