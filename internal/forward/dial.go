package forward

import (
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Dial is a local address that leads to a service of the peer.
type Dial struct {
	flows   *Flows
	service string
	asked   netip.AddrPort // to listen on; its port may be 0
	conn    dgram.Conn
	only    path.Kinds // that its datagrams may take; empty: all

	// guarded by Flows.mu
	clients map[netip.AddrPort]*flow
	refused string     // what the peer said last, empty once it opened a flow
	told    path.Kinds // that the service may take, as the peer said last
	closed  bool
}

// DialStatus is what Dials tells.
type DialStatus struct {
	Service string
	Listen  netip.AddrPort
	Asked   netip.AddrPort // what was to be listened on; its port may be 0
	Only    path.Kinds     // that the dial allows; empty: all
	Rule    path.Kinds     // what that and the service's own rule leave
	Flows   int
	Error   string // why the peer refused the last flow; empty when it did not
}

// Listen opens a local address whose clients reach the peer's service, over
// these kinds of path alone where the set is not empty. To listen again on the
// address of a living Dial of the service, by the same rule, gives that Dial.
func (t *Flows) Listen(service string, listen netip.AddrPort, only path.Kinds) (*Dial, error) {
	if err := CheckName(service); err != nil {
		return nil, err
	}
	if have := t.findDial(service, listen, only); have != nil {
		return have, nil
	}
	conn, err := t.cfg.Network.ListenUDP(listen)
	if err != nil {
		return nil, fmt.Errorf("listen on udp://%v for clients of %q: %w; is the address this host's, and the port free?", listen, service, err)
	}
	d := &Dial{flows: t, service: service, asked: listen, only: only, conn: conn, clients: make(map[netip.AddrPort]*flow)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		closeConn(conn)
		return nil, fmt.Errorf("listen on udp://%v for clients of %q: the agent is stopping", listen, service)
	}
	t.dials = append(t.dials, d)
	t.readers.Go(func() { t.read(conn, d.receive) })
	return d, nil
}

// read hands bursts on until conn is closed.
func (t *Flows) read(conn dgram.Conn, handle func(dgram.Burst)) {
	// No deadline is ever set, so Read has no error to return.
	_ = path.Read(conn, handle)
}

func (t *Flows) findDial(service string, listen netip.AddrPort, only path.Kinds) *Dial {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, d := range t.dials {
		if d.service == service && d.asked == listen && d.only == only {
			return d
		}
	}
	return nil
}

// Addr is where the Dial listens.
func (d *Dial) Addr() netip.AddrPort { return d.conn.LocalAddr() }

// Close stops listening and ends the Dial's flows.
func (d *Dial) Close() {
	t := d.flows
	t.mu.Lock()
	for i, have := range t.dials {
		if have == d {
			t.dials = append(t.dials[:i:i], t.dials[i+1:]...)
			break
		}
	}
	d.closed = true
	ended := t.removeIf(func(f *flow) bool { return f.out != nil && f.out.dial == d })
	t.mu.Unlock()
	closeConn(d.conn)
	t.finish(ended, "hung up")
}

// Hangup closes the Dial of a service that listens there.
func (t *Flows) Hangup(service string, at netip.AddrPort) error {
	var of []*Dial
	var names []string
	t.mu.RLock()
	for _, d := range t.dials {
		if d.service == service && d.conn.LocalAddr() == at {
			of = append(of, d)
		}
		names = append(names, d.service)
	}
	t.mu.RUnlock()
	if len(of) == 0 {
		return fmt.Errorf("no service %q of the peer is dialed at %v; there are %s", service, at, quoted(names))
	}
	for _, d := range of {
		d.Close()
	}
	return nil
}

// Dials tells of every Dial, in the order in which they were made.
func (t *Flows) Dials() []DialStatus {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]DialStatus, 0, len(t.dials))
	for _, d := range t.dials {
		out = append(out, DialStatus{Service: d.service, Listen: d.conn.LocalAddr(), Asked: d.asked, Only: d.only, Rule: d.rule(), Flows: len(d.clients), Error: d.refused})
	}
	return out
}

// receive takes what one client sent, on the reader's goroutine.
func (d *Dial) receive(b dgram.Burst) {
	t := d.flows
	t.mu.RLock()
	f := d.clients[b.Addr]
	isOpen := f != nil && f.out.state == open
	t.mu.RUnlock()
	if f == nil {
		f = t.begin(d, b.Addr)
		if f == nil {
			t.count.add(noNumber, b.Len())
			return
		}
	}
	t.touch(f)
	if !isOpen {
		frame, rest, ok := t.ask(f, b)
		t.announce(frame...)
		if !ok {
			return
		}
		b = rest
	}
	t.send(f, b)
}

// begin makes a flow for a new client; nil when no number is left, or the Dial
// was closed.
func (t *Flows) begin(d *Dial, client netip.AddrPort) *flow {
	f := &flow{instance: t.cfg.Instance, out: &outgoing{dial: d, client: client}}
	f.route.Store(&route{conn: d.conn, to: client})
	now := t.now()
	t.mu.Lock()
	evicted := t.makeRoom(now)
	number, ok := t.numbers.take(now, t.cfg.Limits.Answered+time.Minute, t.isUsed)
	ok = ok && !d.closed
	if ok {
		f.number = number
		f.obey(d.rule())
		t.insert(f, now)
	}
	t.mu.Unlock()
	t.finish(evicted, "evicted")
	if !ok {
		return nil
	}
	return f
}

// isUsed is called with t.mu held.
func (t *Flows) isUsed(number uint16) bool { return t.byNumber[number] != nil }
