package rendezvous

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// ALPNStreams names the control protocol and relay legs in yamux over TLS.
const ALPNStreams = "rendezvous/1"

// How long who connects over TCP may take.
const (
	greetWithin = 10 * time.Second // for the first byte, and for the TLS handshake
	stunIdle    = 30 * time.Second // between two requests; the peer's NAT keeps its mapping meanwhile
)

// front serves what comes in over TCP: it tells apart agents, clients of STUN,
// and browsers, and bounds what all of them may hold.
type front struct {
	server    *Server
	tls       *tls.Config
	gate      *gate
	strangers *strangers
	drops     frontDrops
	legs      atomic.Int64 // relay legs that are open
	splices   splices

	mu     sync.Mutex
	open   map[net.Conn]struct{} // that must be closed for the server to end
	trunks map[*trunk]struct{}
	closed bool
}

// frontDrops count what was not served over TCP.
type frontDrops struct {
	unknown   atomic.Uint64 // connections that began with nothing we know
	silent    atomic.Uint64 // connections that said nothing in time
	handshake atomic.Uint64 // TLS handshakes that came to nothing
	stun      atomic.Uint64 // connections cut because what came was no STUN
	streams   atomic.Uint64 // connections cut for too many streams, or for one that is of no kind
	legs      atomic.Uint64 // relay legs refused: the agent is no member
	splices   atomic.Uint64 // splices refused or not met in time
	accept    atomic.Uint64 // connections that could not be taken
	datagrams atomic.Uint64 // datagrams of relay legs that are nothing we know
	malformed atomic.Uint64 // relay legs cut for an impossible length
	queue     atomic.Uint64 // datagrams that a relay leg's agent was too slow for
}

func newFront(s *Server) (*front, error) {
	config, err := streamTLS(s.registry.key)
	if err != nil {
		return nil, err
	}
	return &front{
		server:    s,
		tls:       config,
		gate:      newGate(s.config.Limits.Connections, s.config.Limits.ConnectionsPerSource),
		strangers: newStrangers(),
		splices:   newSplices(),
		open:      map[net.Conn]struct{}{},
		trunks:    map[*trunk]struct{}{},
	}, nil
}

// streamTLS serves agents, who ask for our protocol, and anybody else, who
// gets a page. To those the coordinator's key means nothing, and few browsers
// take its kind; they get a certificate of another key, which lasts as long as
// the process.
func streamTLS(key ed25519.PrivateKey) (*tls.Config, error) {
	agents, err := serverTLS(key)
	if err != nil {
		return nil, err
	}
	agents.NextProtos = []string{ALPNStreams, ALPNCarrier}
	page, err := pageCertificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if slices.Contains(hello.SupportedProtos, ALPNStreams) || slices.Contains(hello.SupportedProtos, ALPNCarrier) {
				return agents, nil
			}
			others := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{page}, SessionTicketsDisabled: true}
			if slices.Contains(hello.SupportedProtos, "http/1.1") {
				others.NextProtos = []string{"http/1.1"} // else none: a list without a common entry is refused
			}
			return others, nil
		},
	}, nil
}

// accept takes connections until the listener is closed.
func (f *front) accept(ctx context.Context, in *streamDoor) {
	path.Accept(ctx, in.listener, func(error) { f.drops.accept.Add(1) }, func(conn net.Conn) { f.take(ctx, in, conn) })
}

func (f *front) take(ctx context.Context, in *streamDoor, conn net.Conn) {
	from := dgram.AddrOf(conn.RemoteAddr())
	leave, ok := f.gate.enter(time.Now(), from.Addr())
	if !ok || !f.hold(conn) {
		_ = conn.Close()
		if ok {
			leave()
		}
		return
	}
	tuneTCP(conn)
	leave = sync.OnceFunc(leave)
	f.server.tasks.Go(func() {
		defer func() {
			_ = conn.Close()
			f.letGo(conn)
			leave()
		}()
		f.greet(ctx, in, conn, from, leave)
	})
}

// Bounds of the kernel's part of a TCP connection, both ends'.
const (
	userTimeout = 20 * time.Second // until data that is not acknowledged ends it (RFC 5482)
	unsentMost  = 64 << 10         // bytes that wait unsent in the kernel
)

// hold notes a connection to close when the server ends; false when it has.
func (f *front) hold(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.open[c] = struct{}{}
	return true
}

func (f *front) letGo(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
}

// greet finds out who is there and serves him to the end. leave may be called
// before that, once the connection is not ours.
func (f *front) greet(ctx context.Context, in *streamDoor, conn net.Conn, from netip.AddrPort, leave func()) {
	if conn.SetDeadline(time.Now().Add(greetWithin)) != nil {
		return
	}
	seen, ours := f.look(conn, leave)
	if !ours {
		return
	}
	switch classify(seen.first[0]) {
	case greetsTLS:
		f.serveTLS(ctx, in, seen, from)
	case greetsSTUN:
		f.serveSTUN(in, seen, from)
	case greetsHTTP:
		f.strangers.serve(seen)
	default:
		f.drops.unknown.Add(1)
	}
}

// serveTLS shakes hands and serves an agent or a stranger.
func (f *front) serveTLS(ctx context.Context, in *streamDoor, raw *peeked, from netip.AddrPort) {
	conn := tls.Server(raw, f.tls)
	if conn.Handshake() != nil || conn.SetDeadline(time.Time{}) != nil {
		f.drops.handshake.Add(1)
		return
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != ALPNStreams && state.NegotiatedProtocol != ALPNCarrier {
		f.strangers.serve(conn)
		return
	}
	key, err := clientKey(state)
	if err != nil {
		f.drops.handshake.Add(1) // serverTLS looked already
		return
	}
	if state.NegotiatedProtocol == ALPNCarrier {
		f.server.serveCarrier(conn, key)
		return
	}
	f.letGo(raw.Conn) // from here on it ends as a trunk
	f.server.serveTrunk(ctx, &trunk{front: f, spot: &in.spot, key: key, remote: from}, conn)
}

// Bounds of STUN over TCP.
const (
	stunHeader = 20
	stunMost   = 1024 // bytes of a request behind its header; real ones have below 100
)

// serveSTUN answers requests that stand one behind the other (RFC 8489 section
// 6.2.2) until the client ends that. Each answer goes back on the connection.
func (f *front) serveSTUN(in *streamDoor, conn net.Conn, from netip.AddrPort) {
	r := bufio.NewReaderSize(conn, stunHeader+stunMost)
	for {
		request, err := readSTUN(r)
		if err != nil {
			if errors.Is(err, errNoSTUN) {
				f.drops.stun.Add(1)
			}
			return
		}
		answer, ok := in.group.responder.Answer(time.Now(), in.at, from, request)
		if ok && answer.From == in.at && answer.To == from {
			if conn.SetWriteDeadline(time.Now().Add(greetWithin)) != nil {
				return
			}
			if _, err := conn.Write(answer.Message); err != nil {
				return
			}
		}
		if conn.SetReadDeadline(time.Now().Add(stunIdle)) != nil {
			return
		}
	}
}

var errNoSTUN = errors.New("no STUN message")

// readSTUN reads one message: valid until the next read.
func readSTUN(r *bufio.Reader) ([]byte, error) {
	header, err := r.Peek(stunHeader)
	if err != nil {
		return nil, err
	}
	size := int(header[2])<<8 | int(header[3])
	if proto.KindOf(header) != proto.KindSTUN || size%4 != 0 || size > stunMost {
		return nil, errNoSTUN
	}
	message, err := r.Peek(stunHeader + size)
	if err != nil {
		return nil, err
	}
	_, err = r.Discard(len(message))
	return message, err
}

// serveStrangers serves pages until close.
func (f *front) serveStrangers() { f.strangers.run() }

// close ends everything that came in over TCP, but for control connections
// that are saying why they end.
func (f *front) close() {
	f.mu.Lock()
	f.closed = true
	open := make([]net.Conn, 0, len(f.open))
	for c := range f.open {
		open = append(open, c)
	}
	trunks := make([]*trunk, 0, len(f.trunks))
	for t := range f.trunks {
		trunks = append(trunks, t)
	}
	f.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	for _, t := range trunks {
		if !t.hasControl() {
			t.stop()
		}
	}
	f.strangers.close()
	for _, each := range f.server.streams {
		_ = each.listener.Close()
	}
}

// expel ends all connections of an agent that carry its relay legs.
func (f *front) expel(key Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t := range f.trunks {
		if t.key == key && !t.hasControl() {
			f.server.tasks.Go(t.stop)
		}
	}
}
