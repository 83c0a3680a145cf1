package rendezvous

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/rs/zerolog"

	"rendezvous/internal/path"
	"rendezvous/internal/share"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// streamDoor is a TCP listener of the coordinator's.
type streamDoor struct {
	spot
	listener net.Listener
}

// shutDoor is a transport on a port that could not be opened, and that the
// coordinator does without.
type shutDoor struct {
	transport proto.Transport
	at        netip.AddrPort
	err       error
}

// portRole is what a port is among the coordinator's.
type portRole struct {
	number uint16
	index  uint8 // of the port in RFC 5780's terms
	extra  bool
}

// key is the setting that names the port.
func (p portRole) key() string {
	switch {
	case p.extra:
		return "`ports:` in the configuration or --ports"
	case p.index == 1:
		return "`alternate_port:` in the configuration"
	}
	return "--listen"
}

// doorSet is where a coordinator is open, and where not.
type doorSet struct {
	sockets []*socket     // over UDP and fake TCP, those of a port side by side
	streams []*streamDoor // TCP
	shut    []shutDoor
	guess   map[bool]netip.Addr // how it is seen, by "is IPv4": see OutsideAddr
	ids     *connIDs
	share   *share.Sharing // nil: nothing is shared
	places  []place        // where all ports are
	public  *publicPorts
}

// opening opens sockets and listeners; what it has opened is closed by whoever
// made it when an error ends it.
type opening struct {
	doorSet
	config   *Config
	fakeLost bool // fake TCP is not to be had at all: said once
}

// openDoors opens what plan says on all ports, over all transports. Only the
// main port and the alternate over UDP must succeed: a web server may have a
// port of TCP, and fake TCP takes a privilege.
func openDoors(c *Config) (*opening, error) {
	o := &opening{config: c}
	local, err := localAddrs(c.Network)
	if err != nil {
		return nil, err
	}
	ports := roles(c)
	o.places = plan(c.Listen.Addr(), c.Public, local)
	for _, p := range o.places {
		for i := range ports {
			if err := o.open(p, &ports[i]); err != nil {
				return nil, errors.Join(err, o.close())
			}
		}
	}
	if len(o.sockets) == 0 {
		return nil, fmt.Errorf("listen on %v: this host has neither IPv4 nor IPv6", c.Listen)
	}
	var spots []*spot
	for _, s := range o.sockets {
		spots = append(spots, &s.spot)
	}
	for _, s := range o.streams {
		spots = append(spots, &s.spot)
	}
	group(spots)
	for _, s := range o.sockets {
		s.group.conns[s.at.Address&1][s.at.Port&1] = s.conn
	}
	return o, nil
}

func roles(c *Config) []portRole {
	out := []portRole{{number: c.Listen.Port()}}
	if c.Alternate != NoAlternate {
		out = append(out, portRole{number: uint16(c.Alternate), index: 1})
	}
	for _, n := range c.Ports {
		if !slices.ContainsFunc(out, func(have portRole) bool { return have.number == n }) {
			out = append(out, portRole{number: n, extra: true})
		}
	}
	return out
}

// open opens one port of one address over every transport.
func (o *opening) open(p place, port *portRole) error {
	at := netip.AddrPortFrom(p.addr, port.number)
	conn, err := o.config.Network.ListenUDP(at)
	switch {
	case noFamily(err, p.addr):
		return nil
	case err != nil && !port.extra:
		return explainListen("UDP", err, at, port.key())
	case err != nil:
		o.skip(proto.Transport_TRANSPORT_UDP, at, explainListen("UDP", err, at, port.key()))
	default:
		at = netip.AddrPortFrom(p.addr, conn.LocalAddr().Port())
		port.number = at.Port() // the other addresses take the same port
		o.sockets = append(o.sockets, &socket{spot: o.spot(proto.Transport_TRANSPORT_UDP, at, p, port), conn: conn})
	}
	listener := o.openTCP(at, p, port)
	o.openFakeTCP(at, p, port, listener)
	return nil
}

// noFamily says whether err means that the host lacks the family of a.
func noFamily(err error, a netip.Addr) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) && a.IsUnspecified()
}

func (o *opening) spot(t proto.Transport, at netip.AddrPort, p place, port *portRole) spot {
	return spot{transport: t, local: at, public: p.public, at: stun.Socket{Address: p.index, Port: port.index}, extra: port.extra}
}

// openTCP gives nil where there is no listener of ours.
func (o *opening) openTCP(at netip.AddrPort, p place, port *portRole) net.Listener {
	if o.config.Streams == nil {
		return nil
	}
	listener, err := o.config.Streams.ListenTCP(at)
	if err != nil {
		if !noFamily(err, p.addr) {
			o.skip(proto.Transport_TRANSPORT_TCP, at, explainListen("TCP", err, at, port.key()))
		}
		return nil
	}
	o.streams = append(o.streams, &streamDoor{spot: o.spot(proto.Transport_TRANSPORT_TCP, at, p, port), listener: listener})
	return listener
}

func (o *opening) openFakeTCP(at netip.AddrPort, p place, port *portRole, beside net.Listener) {
	if o.config.FakeTCP == nil || o.fakeLost {
		return
	}
	conn, err := o.config.FakeTCP.ListenFakeTCP(at, beside)
	var failure *path.Failure
	switch {
	case err == nil:
		o.sockets = append(o.sockets, &socket{spot: o.spot(proto.Transport_TRANSPORT_FAKE_TCP, at, p, port), conn: conn})
	case noFamily(err, p.addr):
	case errors.As(err, &failure) && failure.Skipped:
		o.fakeLost = true
		o.skip(proto.Transport_TRANSPORT_FAKE_TCP, netip.AddrPort{}, withAdvice(failure))
	default:
		o.skip(proto.Transport_TRANSPORT_FAKE_TCP, at, explainListen("fake TCP", err, at, port.key()))
	}
}

// withAdvice is a failure and what its user can do.
func withAdvice(f *path.Failure) error {
	if f.Advice == "" {
		return f
	}
	return fmt.Errorf("%w; %s", f, f.Advice)
}

func (o *opening) skip(t proto.Transport, at netip.AddrPort, err error) {
	o.shut = append(o.shut, shutDoor{t, at, err})
}

// logShut says once for each what the coordinator does without.
func logShut(log zerolog.Logger, shut []shutDoor) {
	for _, s := range shut {
		log.Warn().Err(s.err).Str("transport", transportWord(s.transport)).Msg("not listening there; going on without")
	}
}

func (o *opening) close() error {
	var err error
	for _, s := range o.sockets {
		err = errors.Join(err, s.conn.Close())
	}
	for _, s := range o.streams {
		err = errors.Join(err, s.listener.Close())
	}
	return err
}

func explainListen(transport string, err error, at netip.AddrPort, key string) error {
	flag := "t"
	if transport == "UDP" {
		flag = "u"
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s %v: the port is in use; `ss -%slpn sport = :%d` shows by whom; stop that, or choose another port with %s", transport, at, flag, at.Port(), key)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("listen on %s %v: permission denied; ports below 1024 want root or CAP_NET_BIND_SERVICE, or choose another port with %s", transport, at, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s %v: this host has no such address; `ip address` shows those it has", transport, at)
	}
	return fmt.Errorf("listen on %s %v: %w", transport, at, err)
}

// transportWord is how logs and status name a transport.
func transportWord(t proto.Transport) string {
	switch t {
	case proto.Transport_TRANSPORT_UDP:
		return "udp"
	case proto.Transport_TRANSPORT_TCP:
		return "tcp"
	case proto.Transport_TRANSPORT_FAKE_TCP:
		return "faketcp"
	case proto.Transport_TRANSPORT_TLS:
		return "tls"
	}
	return t.String()
}

// doors are all ports that this coordinator is open on, for its agents.
func (s *Server) doors() []*proto.Door {
	var out []*proto.Door
	add := func(t proto.Transport, port uint16) {
		if !slices.ContainsFunc(out, func(d *proto.Door) bool { return d.GetTransport() == t && d.GetPort() == uint32(port) }) {
			out = append(out, &proto.Door{Transport: t, Port: uint32(port)})
		}
	}
	for _, each := range s.sockets {
		add(each.transport, each.local.Port())
	}
	for _, each := range s.streams {
		add(proto.Transport_TRANSPORT_TLS, each.local.Port())
		add(proto.Transport_TRANSPORT_TCP, each.local.Port())
	}
	return out
}

// Listening are the open doors in words, "udp 0.0.0.0:443" for one.
func (s *Server) Listening() []string {
	var out []string
	for _, d := range s.doorStatus() {
		if d.Problem == "" {
			out = append(out, d.Transport+" "+d.Addr)
		}
	}
	return out
}
