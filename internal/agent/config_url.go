package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"rendezvous/internal/forward"
	"rendezvous/internal/path"
)

// Service is a local service that peers may dial by its name.
type Service struct {
	Name string
	forward.Target
}

// Dial is a local address that leads to a peer's service.
type Dial struct {
	Peer    string
	Service string
	TCP     bool       // carries connections, not datagrams
	Host    string     // where we listen for local clients
	Port    uint16     // 0: any free port
	Only    path.Kinds // that may carry its datagrams; empty: all
}

func (s Service) String() string { return s.Name + "=" + s.URL() }

// Addr is where we listen, as host:port.
func (d Dial) Addr() string { return hostPort(d.Host, d.Port) }

// at is where we listen: of two dials by the same protocol only one can.
func (d Dial) at() string {
	d.Only = 0
	return d.URL()
}

// URL is where we listen, as users write it.
func (d Dial) URL() string {
	t := forward.Target{Scheme: "udp", Host: d.Host, Port: d.Port, Only: d.Only}
	if d.TCP {
		t.Scheme = "tcp"
	}
	return t.URL()
}

// Target is the peer's service as users write it: PEER/NAME.
func (d Dial) Target() string { return d.Peer + "/" + d.Service }

func (d Dial) String() string { return d.Target() + "=" + d.URL() }

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// ParseService checks a service's name and URL.
func ParseService(name, rawURL string) (Service, error) {
	if err := CheckName("service", name); err != nil {
		return Service{}, err
	}
	t, err := forward.ParseURL(rawURL)
	switch {
	case err != nil:
		return Service{}, err
	case !isHost(t.Host):
		return Service{}, fmt.Errorf("%q has a host that is neither an IP address nor a name", rawURL)
	}
	return Service{Name: name, Target: t}, nil
}

// ParseDial checks a dial's peer, service and URL. The URL's host must be an
// address of this machine, because that is where we listen.
func ParseDial(peer, service, rawURL string) (Dial, error) {
	if err := errors.Join(CheckName("peer", peer), CheckName("service", service)); err != nil {
		return Dial{}, err
	}
	scheme, listen, _ := strings.Cut(rawURL, "://")
	listen, options, _ := strings.Cut(listen, "?")
	only, err := dialRule(options)
	if err != nil {
		return Dial{}, fmt.Errorf("the URL %q: %w", rawURL, err)
	}
	if port, ok := strings.CutPrefix(listen, "localhost:"); ok {
		listen = "127.0.0.1:" + port
	}
	at, err := netip.ParseAddrPort(listen)
	if scheme != "udp" && scheme != "tcp" || err != nil || at.Addr().Zone() != "" {
		return Dial{}, fmt.Errorf("%q is not udp://IP:PORT or tcp://IP:PORT with an address of this machine, as in udp://127.0.0.1:51821", rawURL)
	}
	return Dial{Peer: peer, Service: service, TCP: scheme == "tcp", Host: at.Addr().String(), Port: at.Port(), Only: only}, nil
}

// dialRule reads the one option that a dial has.
func dialRule(options string) (path.Kinds, error) {
	if options == "" {
		return 0, nil
	}
	given, err := url.ParseQuery(options)
	if err != nil || len(given) != 1 || len(given["paths"]) != 1 {
		return 0, errors.New("of all options a dial takes paths=KIND+KIND alone; others belong to the exposed URL on the peer")
	}
	return path.ParseKinds(given.Get("paths"))
}

// ParseExposeFlag reads NAME=URL.
func ParseExposeFlag(arg string) (Service, error) {
	name, rawURL, ok := strings.Cut(arg, "=")
	if !ok {
		return Service{}, fmt.Errorf("%q is not NAME=URL, as in wg=udp://127.0.0.1:51820", arg)
	}
	return ParseService(name, rawURL)
}

// ParseDialFlag reads PEER/NAME=URL.
func ParseDialFlag(arg string) (Dial, error) {
	target, rawURL, ok := strings.Cut(arg, "=")
	if !ok {
		return Dial{}, fmt.Errorf("%q is not PEER/NAME=URL, as in home/wg=udp://127.0.0.1:51821", arg)
	}
	peer, service, err := ParseTarget(target)
	if err != nil {
		return Dial{}, err
	}
	return ParseDial(peer, service, rawURL)
}

// ParseTarget reads PEER/NAME.
func ParseTarget(target string) (peer, service string, err error) {
	peer, service, ok := strings.Cut(target, "/")
	if !ok {
		return "", "", fmt.Errorf("%q is not PEER/NAME, as in home/wg", target)
	}
	return peer, service, errors.Join(CheckName("peer", peer), CheckName("service", service))
}

// maxName is the longest label of the DNS, so that a name may become one.
const maxName = 63

// CheckName says what is wrong with the name of a peer or service, which must
// be a label of the DNS in small letters (RFC 1123 section 2.1). What is the
// word for the thing that has the name.
func CheckName(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s has no name", what)
	}
	if len(name) > maxName {
		return fmt.Errorf("the %s name %q has %d letters; %d are allowed", what, name, len(name), maxName)
	}
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name[0] == '-' || name[len(name)-1] == '-' {
		return fmt.Errorf("the %s name %q may hold only a-z, 0-9 and -, and neither begin nor end with -", what, name)
	}
	return nil
}

func isHost(host string) bool {
	ip, zone, zoned := strings.Cut(host, "%")
	if a, err := netip.ParseAddr(ip); err == nil {
		return !zoned || a.Is6() && zone != "" && isHostName(zone)
	}
	return isHostName(host)
}

func isHostName(host string) bool {
	return strings.Trim(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == ""
}
