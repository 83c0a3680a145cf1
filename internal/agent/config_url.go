package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Service is a local UDP service that peers may dial by its name.
type Service struct {
	Name string
	Host string // where it listens: an IP address or a host name
	Port uint16
	Raw  bool // it protects its own payload, which crosses unchanged
}

// Dial is a local address that leads to a peer's service.
type Dial struct {
	Peer    string
	Service string
	Host    string // where we listen for local clients
	Port    uint16 // 0: any free port
}

// Addr is where the service listens, as host:port.
func (s Service) Addr() string { return hostPort(s.Host, s.Port) }

// URL is the service's address as users write it.
func (s Service) URL() string {
	u := udpURL(s.Host, s.Port)
	if s.Raw {
		u += "?raw"
	}
	return u
}

func (s Service) String() string { return s.Name + "=" + s.URL() }

// Addr is where we listen, as host:port.
func (d Dial) Addr() string { return hostPort(d.Host, d.Port) }

// URL is where we listen, as users write it.
func (d Dial) URL() string { return udpURL(d.Host, d.Port) }

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
	a, err := parseURL(rawURL)
	if err != nil {
		return Service{}, err
	}
	if a.port == 0 {
		return Service{}, fmt.Errorf("the URL %q has port 0; give the port that the service listens on", rawURL)
	}
	s := Service{Name: name, Host: a.host, Port: a.port}
	for key, values := range a.query {
		switch {
		case key == "raw" && len(values) == 1 && values[0] == "":
			s.Raw = true
		case key == "raw":
			return Service{}, fmt.Errorf("the URL %q gives ?raw a value; write ?raw alone", rawURL)
		case key == "public":
			return Service{}, errors.New("public ports are not supported yet; leave out public=")
		default:
			return Service{}, fmt.Errorf("the URL %q has an unknown option %q; there is ?raw", rawURL, key)
		}
	}
	return s, nil
}

// ParseDial checks a dial's peer, service and URL.
func ParseDial(peer, service, rawURL string) (Dial, error) {
	if err := errors.Join(CheckName("peer", peer), CheckName("service", service)); err != nil {
		return Dial{}, err
	}
	a, err := parseURL(rawURL)
	if err != nil {
		return Dial{}, err
	}
	if len(a.query) > 0 {
		return Dial{}, fmt.Errorf("the URL %q has options; a dial takes none, they belong to the exposed URL on the peer", rawURL)
	}
	return Dial{Peer: peer, Service: service, Host: a.host, Port: a.port}, nil
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

func udpURL(host string, port uint16) string {
	u := url.URL{Scheme: "udp", Host: hostPort(host, port)} // escapes the zone of an IPv6 address
	return u.String()
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

type udpAddress struct {
	host  string
	port  uint16
	query url.Values
}

func parseURL(raw string) (udpAddress, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return udpAddress{}, fmt.Errorf("%q is not a URL like udp://127.0.0.1:51820", raw)
	}
	switch u.Scheme {
	case "udp":
	case "tcp":
		return udpAddress{}, fmt.Errorf("%s: tcp services are not supported yet; use udp://", raw)
	default:
		return udpAddress{}, fmt.Errorf("%q begins with %s://; use udp://", raw, u.Scheme)
	}
	if u.User != nil || (u.Path != "" && u.Path != "/") || u.Fragment != "" {
		return udpAddress{}, fmt.Errorf("%q says more than udp://HOST:PORT", raw)
	}
	if u.Hostname() == "" {
		return udpAddress{}, fmt.Errorf("%q has no host; write udp://127.0.0.1:%s", raw, u.Port())
	}
	if !isHost(u.Hostname()) {
		return udpAddress{}, fmt.Errorf("%q has a host that is neither an IP address nor a name", raw)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return udpAddress{}, fmt.Errorf("%q has no port from 0 to 65535", raw)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return udpAddress{}, fmt.Errorf("%q has options that cannot be read: %w", raw, err)
	}
	return udpAddress{host: u.Hostname(), port: uint16(port), query: query}, nil
}
