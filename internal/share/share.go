// Package share hands what comes to a port of the coordinator and is not its
// own to other programs of the host: a web server, sshd, OpenVPN. It decides
// by content alone, by a connection's first bytes or a client's first
// datagram. What stands in IP headers does not count: networks rewrite it.
package share

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"rendezvous/internal/dgram"
	"rendezvous/internal/sources"
)

// Config says what is shared with whom. Settings.Parse makes it.
type Config struct {
	// Inspect is how long a TCP connection may be silent until a rule for
	// silence has it.
	Inspect  time.Duration
	Backends []Backend
	TCP, UDP []Rule
	Limits   Limits
}

// Backend is another program on this host or near it.
type Backend struct {
	Name     string
	TCP, UDP netip.AddrPort // the zero AddrPort: it does not serve that
	Proxy    bool           // TCP connections begin with a header of the PROXY protocol, version 2
}

// Rule says whose some content is.
type Rule struct {
	Is    Is
	Names []string // for TLS and QUIC: server names, "*.example.org" for those below; none: any
	ALPN  []string // for TLS and QUIC: one of these is offered; none: any
	Keys  []Keys   // for OpenVPN: none: any
	Bytes Shape    // for Bytes
	To    string   // a backend's name
	key   string   // its way in the settings
}

// Is is a sort of content.
type Is string

// The sorts of content, as users write them.
const (
	TLS       Is = "tls"
	QUIC      Is = "quic"
	SSH       Is = "ssh"
	HTTP      Is = "http"
	OpenVPN   Is = "openvpn"
	WireGuard Is = "wireguard"
	DTLS      Is = "dtls"
	Bytes     Is = "bytes"
	Silence   Is = "silence"
	Anything  Is = "anything"
)

// Limits bound what strangers may take. A zero field takes its default.
type Limits struct {
	Connections          int // over TCP, open at once
	ConnectionsPerSource int // an IPv4 address or a /64 of IPv6
	Flows                int // clients over UDP, at once
	FlowsPerSource       int
	FlowsSecond          float64 // new ones, in all
	// Idle ends a flow that the backend has answered, Unanswered one that it
	// has not.
	Idle, Unanswered time.Duration
}

// Defaults. A connection costs two sockets and some 10 KB, a flow one socket
// and some 5 KB.
const (
	DefaultInspect     = 2 * time.Second
	defaultConnections = 8192
	defaultFlows       = 8192
	defaultPerSource   = 256 // a carrier's NAT may hide many clients
	defaultFlowsSecond = 1000
	defaultIdle        = 3 * time.Minute // longer than any keepalive of OpenVPN and WireGuard
	defaultUnanswered  = 30 * time.Second
)

func (l Limits) withDefaults() Limits {
	return Limits{
		Connections:          cmp.Or(l.Connections, defaultConnections),
		ConnectionsPerSource: cmp.Or(l.ConnectionsPerSource, defaultPerSource),
		Flows:                cmp.Or(l.Flows, defaultFlows),
		FlowsPerSource:       cmp.Or(l.FlowsPerSource, defaultPerSource),
		FlowsSecond:          cmp.Or(l.FlowsSecond, defaultFlowsSecond),
		Idle:                 cmp.Or(l.Idle, defaultIdle),
		Unanswered:           cmp.Or(l.Unanswered, defaultUnanswered),
	}
}

// Own tells what belongs to whoever shares its ports: it comes before all
// rules.
type Own struct {
	// Protocols are its ALPNs, in TLS and QUIC.
	Protocols []string
	// Datagram says of a datagram that it can be nobody else's.
	Datagram func([]byte) bool
}

// Sharing hands on connections and datagrams. Its methods may be called from
// many goroutines.
type Sharing struct {
	inspect time.Duration
	limits  Limits
	own     Own
	network dgram.Network
	dial    func(context.Context, netip.AddrPort) (net.Conn, error)
	tcp     streamRules
	udp     datagramRules
	all     []*backend
	count   counters
	conns   *sources.Count
	flows   table
	doors   []*Door        // guarded by flows.mu
	tasks   sync.WaitGroup // readers of flows
}

// New makes a Sharing of a Config that Settings.Parse has made.
func New(c Config, own Own, network dgram.Network, streams dgram.Streams, log zerolog.Logger) *Sharing {
	limits := c.Limits.withDefaults()
	s := &Sharing{
		inspect: c.Inspect, limits: limits, own: own, network: network,
		conns: sources.NewCount(limits.Connections, limits.ConnectionsPerSource),
		flows: newTable(limits),
	}
	if streams != nil {
		s.dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return streams.DialTCP(ctx, netip.AddrPort{}, to)
		}
	}
	byName := map[string]*backend{}
	for _, b := range c.Backends {
		each := &backend{Backend: b, log: log}
		byName[b.Name] = each
		s.all = append(s.all, each)
	}
	for _, r := range c.TCP {
		s.tcp.add(r, byName[r.To])
	}
	for _, r := range c.UDP {
		s.udp.add(r, byName[r.To])
	}
	return s
}

// Run ends what idles until ctx ends, then all flows.
func (s *Sharing) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.endFlows(s.flows.close())
			s.tasks.Wait()
			return
		case now := <-tick.C:
			s.expire(now)
		}
	}
}

// Backends are where all is handed to.
func (s *Sharing) Backends() []Backend {
	out := make([]Backend, 0, len(s.all))
	for _, b := range s.all {
		out = append(out, b.Backend)
	}
	return out
}

// limiter bounds new flows of all sources together: one source's are bounded
// by their number.
func limiter(perSecond float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(2*perSecond)))
}
