package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/internal/veil"
	"rendezvous/proto"
)

// The pace of a control connection. A datagram every 15 s keeps a NAT's
// mapping open, the shortest of which live 30 s; an agent that has been silent
// for three of these is gone.
const (
	keepAlive = 15 * time.Second
	idleAfter = 45 * time.Second
)

// Bounds of a control connection, in bytes.
const (
	packetSize   = 1200     // every path that carries QUIC carries that (RFC 9000 section 14)
	streamWindow = 72 << 10 // one message of the largest size, and a little
	idLength     = 12       // of connection IDs; see Client.heartbeat for a reason not to take less
)

// How a coordinator stops.
const (
	stopGrace = 300 * time.Millisecond // for goodbyes to leave
	backIn    = 2                      // seconds until agents try again
)

// Server is a coordinator. New opens its sockets, Run serves on them.
type Server struct {
	config   Config
	log      zerolog.Logger
	registry *Registry
	relay    *relay.Server
	doorSet
	started time.Time

	present       *presence
	introductions *introductions
	door          *door
	front         *front
	lean          *leanTable
	seen          seen
	drops         drops

	conns openConns
	tasks sync.WaitGroup // goroutines of connections
}

// drops count what was not served, beside what relay and STUN count.
type drops struct {
	unknownKind atomic.Uint64 // datagrams that are nothing we know
	stunWrite   atomic.Uint64 // STUN answers that could not be sent
	badMessage  atomic.Uint64 // control streams with what is no message
	flood       atomic.Uint64 // connections cut for too many requests
	slow        atomic.Uint64 // connections cut because they did not read
	requests    atomic.Uint64 // requests refused
	wakes       atomic.Uint64 // wakes that could not be sent
	carriers    atomic.Uint64 // carriers that no public port of TCP is for
	lean        atomic.Uint64 // datagrams of lean connections that their agents have not made
}

// New opens the sockets of a coordinator. Its errors say which port and why.
func New(c Config) (*Server, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c.Limits = c.Limits.withDefaults()
	s := &Server{
		config:        c,
		log:           c.Log,
		registry:      c.Registry,
		relay:         relay.NewServer(c.Limits.Relay),
		started:       time.Now(),
		present:       newPresence(),
		introductions: newIntroductions(c.Limits.Introductions),
		door:          newDoor(c.Limits.Connections),
	}
	opened, err := openDoors(&c)
	if err != nil {
		return nil, err
	}
	logShut(s.log, opened.shut)
	s.doorSet = opened.doorSet
	s.guess = make(map[bool]netip.Addr)
	for _, v4 := range []bool{true, false} {
		if a, ok := OutsideAddr(c.Network, v4); ok {
			s.guess[v4] = a
		}
	}
	s.public = newPublicPorts(s)
	if s.front, err = newFront(s); err == nil {
		err = s.openShare()
	}
	if err == nil {
		err = s.listen()
	}
	if err != nil {
		return nil, errors.Join(err, s.closeSockets())
	}
	return s, nil
}

// Addrs are where the coordinator listens over UDP, the main port of each
// address before its others.
func (s *Server) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, each := range s.sockets {
		if each.transport == proto.Transport_TRANSPORT_UDP {
			out = append(out, each.local)
		}
	}
	return out
}

// StreamAddrs are the addresses listened on over TCP.
func (s *Server) StreamAddrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, each := range s.streams {
		out = append(out, each.local)
	}
	return out
}

// listen puts QUIC on every socket.
func (s *Server) listen() error {
	tlsConfig, err := serverTLS(s.registry.key)
	if err != nil {
		return err
	}
	tlsConfig.NextProtos = []string{ALPN, ALPNCarrier}
	// Both keys are the same after a restart: agents with a connection from
	// before it are told by a stateless reset (RFC 9000 section 10.3) with
	// their next datagram that it is gone, and need not wait to find out.
	reset := quic.StatelessResetKey(derive(s.registry.key, "stateless reset"))
	token := quic.TokenGeneratorKey(derive(s.registry.key, "retry token"))
	if s.ids, err = newConnIDs(s.registry.key, "connection IDs"); err != nil {
		return err
	}
	if s.lean, err = newLeanTable(s, s.registry.key); err != nil {
		return err
	}
	pin, err := s.registry.Pin()
	if err != nil {
		return err
	}
	hidden, err := veil.New(pin, true)
	if err != nil {
		return err
	}
	for _, each := range s.sockets {
		each.veil = veil.Over(each.conn, hidden, false)
		each.packets = dgram.NewPacketConn(each.veil)
		each.quic = &quic.Transport{
			Conn:                             each.packets,
			ConnectionIDGenerator:            s.ids,
			StatelessResetKey:                &reset,
			TokenGeneratorKey:                &token,
			DisableVersionNegotiationPackets: true,
			VerifySourceAddress:              s.door.unproven,
			ConnContext:                      s.door.enter,
		}
		each.listener, err = each.quic.Listen(tlsConfig.Clone(), s.serverQUIC())
		if err != nil {
			return fmt.Errorf("serve QUIC on %v over %s: %w", each.local, transportWord(each.transport), err)
		}
	}
	return nil
}

// quicConfig is that of both ends of a control connection, which agents keep alive
// (Client.heartbeat).
func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 idleAfter,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: streamWindow,
		MaxConnectionReceiveWindow:     streamWindow,
		MaxIncomingStreams:             1,
		MaxIncomingUniStreams:          -1,
		InitialPacketSize:              packetSize,
		DisablePathMTUDiscovery:        true,
	}
}

// Run serves until ctx ends, then says goodbye to the agents and closes the
// sockets. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var workers sync.WaitGroup
	failed := make(chan error, 2*len(s.sockets))
	for _, each := range s.sockets {
		workers.Go(func() {
			err := path.Read(each.conn, func(b dgram.Burst) { s.route(each, b) })
			if each.transport == proto.Transport_TRANSPORT_UDP {
				failed <- err
			} else if serving.Err() == nil {
				s.log.Error().Err(err).Stringer("at", each.local).Msg("fake TCP has ended there; going on without")
			}
		})
		workers.Go(func() { s.accept(serving, each) })
	}
	for _, each := range s.streams {
		workers.Go(func() { s.front.accept(serving, each) })
	}
	if s.share != nil {
		workers.Go(func() { s.share.Run(serving) })
	}
	workers.Go(func() { s.front.serveStrangers() })
	workers.Go(func() { s.expire(serving) })
	workers.Go(func() { s.public.run(serving) })
	workers.Go(func() {
		s.callBack(serving)
		s.keepSeen(serving)
	})

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		if err == nil {
			err = errors.New("a socket was closed")
		}
	}
	s.goodbye()
	cancel()
	s.front.close()
	s.public.stop()
	err = errors.Join(err, s.closeSockets())
	s.tasks.Wait()
	workers.Wait()
	return err
}

// route hands on what one read brought. The relay looks first: on a raw leg,
// payload may look like anything.
func (s *Server) route(in *socket, b dgram.Burst) {
	if s.relay.Receive(in.conn, b) {
		return
	}
	if in.shared != nil {
		in.shared.Receive(b, func(own dgram.Burst) { s.own(in, own) })
		return
	}
	s.own(in, b)
}

func (s *Server) accept(ctx context.Context, in *socket) {
	for {
		conn, err := in.listener.Accept(ctx)
		if err != nil {
			return // the listener is closed
		}
		shaken(conn.Context())
		key, err := clientKey(conn.ConnectionState().TLS)
		if err != nil {
			_ = conn.CloseWithError(closeProtocol, err.Error())
			continue
		}
		if conn.ConnectionState().TLS.NegotiatedProtocol == ALPNCarrier {
			s.tasks.Go(func() { s.carry(conn, key) })
			continue
		}
		a := &agentConn{
			server: s, carrier: overQUIC{conn, "quic"}, spot: &in.spot, key: key, remote: dgram.AddrOf(conn.RemoteAddr()),
			open: func(ctx context.Context) (controlStream, error) { return conn.AcceptStream(ctx) },
		}
		a.lean = func(now time.Time) (*proto.Leaned, error) { return s.lean.begin(now, conn, in, a) }
		if in.transport != proto.Transport_TRANSPORT_UDP {
			a.carrier = overQUIC{conn, "quic over " + transportWord(in.transport)}
		}
		s.arrived(ctx, a)
	}
}

// arrived serves a new control connection.
func (s *Server) arrived(ctx context.Context, a *agentConn) {
	s.conns.add(a)
	s.tasks.Go(func() { a.run(ctx) })
}

// departed takes a connection off every table, once it is gone.
func (s *Server) departed(a *agentConn, why error) {
	s.conns.remove(a)
	s.public.left(time.Now(), a)
	if !s.present.leave(a.key, a) {
		return
	}
	s.noteSeen(a, false)
	s.log.Debug().Stringer("from", a.remote).AnErr("why", why).Msg("an agent left")
	s.unanswered(s.introductions.left(a.key), "it lost its connection to the coordinator")
}

// refused notes that a request was answered with an error.
func (s *Server) refused(a *agentConn, code *CodeError, err error) {
	s.drops.requests.Add(1)
	event := s.log.Debug()
	if code.Code == proto.Code_CODE_STORAGE {
		event = s.log.Error()
	}
	event.Err(err).Stringer("from", a.remote).Stringer("code", code.Code).Msg("refused")
}

// expire ends what has waited or idled too long.
func (s *Server) expire(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.relay.Expire(now)
			s.lean.expire(now)
			s.unanswered(s.introductions.expire(now), "it did not answer within "+answerWithin.String())
		}
	}
}

// goodbye tells the agents that the coordinator stops, so that they come back
// without waiting for a timeout.
func (s *Server) goodbye() {
	all := s.conns.all()
	for _, a := range all {
		a.send(&proto.ToAgent{Body: &proto.ToAgent_Goodbye{Goodbye: &proto.Goodbye{BackInS: backIn}}})
	}
	if len(all) > 0 {
		time.Sleep(stopGrace)
	}
	for _, a := range all {
		_ = a.close(closeStopping, "the coordinator stops", nil)
	}
}

// closeSockets ends QUIC on each socket, then the socket.
func (s *Server) closeSockets() error {
	var err error
	for _, each := range s.streams {
		err = errors.Join(err, ignoreClosed(each.listener.Close()))
	}
	for _, each := range s.sockets {
		if each.listener != nil {
			err = errors.Join(err, each.listener.Close())
		}
		if each.quic != nil {
			err = errors.Join(err, each.quic.Close(), each.packets.Close())
		}
		err = errors.Join(err, each.conn.Close())
	}
	return err
}

// ignoreClosed lets a second Close pass.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
