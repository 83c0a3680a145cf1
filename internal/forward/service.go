package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"rendezvous/internal/path"
)

// Target is what a service's URL says.
type Target struct {
	Scheme string // "udp" or "tcp"
	Host   string // an IP address, or a name that is resolved when a flow opens
	Port   uint16
	Raw    bool       // UDP: it protects its own payload, which crosses unchanged
	Public uint16     // the port wanted on the coordinator for clients without an agent; 0: none
	Proxy  bool       // TCP: the service is told each client's address in a PROXY protocol header
	Alias  bool       // each client comes from a loopback address of its own
	Only   path.Kinds // that may carry it; empty: all
}

// options are those that a service's URL may have, as an error lists them.
const options = "?raw, ?paths=KIND+KIND, ?public=PORT, ?alias, and for tcp:// ?proxy"

// Addr is where the service listens, as host:port.
func (t Target) Addr() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// Literal is the service's address where no name must be resolved for it.
func (t Target) Literal() (addr netip.Addr, ok bool) {
	if t.Alias && t.Host == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true // clients' own addresses are IPv4 loopback
	}
	addr, err := netip.ParseAddr(t.Host)
	return addr.Unmap(), err == nil
}

// URL is t as users write it; ParseURL reads it.
func (t Target) URL() string {
	u := url.URL{Scheme: t.Scheme, Host: t.Addr()} // escapes the zone of an IPv6 address
	var options []string
	if t.Raw {
		options = append(options, "raw")
	}
	if t.Proxy {
		options = append(options, "proxy")
	}
	if t.Alias {
		options = append(options, "alias")
	}
	if t.Public != 0 {
		options = append(options, "public="+strconv.Itoa(int(t.Public)))
	}
	if t.Only != 0 {
		options = append(options, "paths="+t.Only.String())
	}
	u.RawQuery = strings.Join(options, "&")
	return u.String()
}

// ParseURL reads udp://HOST:PORT and tcp://HOST:PORT with options, which
// combine with &.
func ParseURL(raw string) (Target, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return Target{}, fmt.Errorf("%q is not a URL like udp://127.0.0.1:51820", raw)
	case u.Scheme != "udp" && u.Scheme != "tcp":
		return Target{}, fmt.Errorf("%q begins with %s://; use udp:// or tcp://", raw, u.Scheme)
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.Fragment != "":
		return Target{}, fmt.Errorf("%q says more than %s://HOST:PORT and options", raw, u.Scheme)
	}
	t := Target{Scheme: u.Scheme, Host: u.Hostname()}
	if t.Port, err = port(u.Port()); err != nil {
		return Target{}, fmt.Errorf("%q: %w", raw, err)
	}
	if !reachable(t.Host) {
		return Target{}, fmt.Errorf("%q has no host that a service can be reached at; write udp://127.0.0.1:%d", raw, t.Port)
	}
	if err := t.take(u.RawQuery); err != nil {
		return Target{}, fmt.Errorf("%q has options that can't be read: %w", raw, err)
	}
	return t, nil
}

// reachable says whether a service can be at host: any name, and most addresses.
func reachable(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host != "" && (err != nil || !ip.IsUnspecified() && !ip.IsMulticast())
}

// take reads the options of a URL. Its error names all that are wrong, in their
// order.
func (t *Target) take(query string) error {
	var faults []string
	given, unknown := map[string]bool{}, false
	for option := range strings.SplitSeq(query, "&") {
		if option == "" {
			continue
		}
		key, value, _ := strings.Cut(option, "=")
		value, err := url.QueryUnescape(value)
		if err == nil {
			err = t.set(key, value)
		}
		switch {
		case given[key]:
			faults = append(faults, fmt.Sprintf("%q is given twice", key))
		case errors.Is(err, errOption):
			faults, unknown = append(faults, fmt.Sprintf("%q does not exist or is given wrongly", option)), true
		case err != nil:
			faults = append(faults, err.Error())
		}
		given[key] = true
	}
	if unknown {
		faults = append(faults, "there are "+options)
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	return nil
}

var errOption = errors.New("no such option")

// set takes one option, if it goes with the rest of the URL.
func (t *Target) set(key, value string) (err error) {
	switch {
	case key == "raw" && value == "":
		t.Raw = true
		if t.Scheme == "tcp" {
			return errors.New("raw is for udp:// services; what a tcp:// one carries is always sealed")
		}
	case key == "proxy" && value == "":
		t.Proxy = true
		if t.Scheme == "udp" {
			return errors.New("proxy is for tcp:// services; alias gives the clients of a udp:// one addresses of their own")
		}
	case key == "alias" && value == "":
		t.Alias = true
		if !t.onLoopback() {
			return errors.New("alias needs a service on 127.0.0.1: only there every client can have an address of its own")
		}
	case key == "paths":
		if t.Only, err = path.ParseKinds(value); err != nil {
			return fmt.Errorf("paths: %w", err)
		}
	case key == "public":
		if t.Public, err = port(value); err != nil {
			return fmt.Errorf("public: %w", err)
		}
	default:
		return errOption
	}
	return nil
}

// onLoopback says whether the service is where clients can have addresses of
// their own.
func (t *Target) onLoopback() bool {
	ip, err := netip.ParseAddr(t.Host)
	return t.Host == "localhost" || err == nil && ip.Is4() && ip.IsLoopback()
}

func port(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// maxName is the longest label of the DNS, so that a name may become one.
const maxName = 63

// CheckName says what is wrong with a service's name: it must be a label of the
// DNS in small letters (RFC 1123 section 2.1).
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("the service name %q has %d letters; 1 to %d are allowed", name, len(name), maxName)
	}
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name[0] == '-' || name[len(name)-1] == '-' {
		return fmt.Errorf("the service name %q may hold only a-z, 0-9 and -, and neither begin nor end with -", name)
	}
	return nil
}

// Service is what List tells of an exposed service.
type Service struct {
	Name string
	URL  string
	Target
	Flows int // that live now, of all peers
}

// service is an exposed service; flows point at it.
type service struct {
	name, url string
	target    Target
	flows     atomic.Int64 // and connections
	conns     connections
}

// Services are what this agent exposes to its peers. The zero Services are not
// ready; use NewServices.
type Services struct {
	mu      sync.RWMutex
	byName  map[string]*service
	version atomic.Uint64 // rises when a service is replaced or withdrawn
}

// NewServices exposes nothing yet.
func NewServices() *Services { return &Services{byName: make(map[string]*service)} }

// Expose offers a service under a name. To expose a name again with another
// URL replaces it: flows to the old address end at the next Expire and open
// again to the new one.
func (s *Services) Expose(name, rawURL string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	t, err := ParseURL(rawURL)
	if err != nil {
		return fmt.Errorf("expose %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.byName[name]; have != nil && have.url == rawURL {
		return nil
	}
	s.version.Add(1)
	s.byName[name] = &service{name: name, url: rawURL, target: t}
	return nil
}

// Unexpose withdraws a service. Its flows end at the next Expire, or at
// Flows.Withdraw.
func (s *Services) Unexpose(name string) error {
	s.mu.Lock()
	gone := s.byName[name]
	if gone == nil {
		defer s.mu.Unlock()
		return fmt.Errorf("no service %q is exposed; there are %s", name, quoted(s.names()))
	}
	s.version.Add(1)
	delete(s.byName, name)
	s.mu.Unlock()
	gone.cut()
	return nil
}

// List is the exposed services by name.
func (s *Services) List() []Service {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Service, 0, len(s.byName))
	for _, name := range s.names() {
		v := s.byName[name]
		out = append(out, Service{Name: name, URL: v.url, Target: v.target, Flows: int(v.flows.Load())})
	}
	return out
}

// names is sorted; s.mu is held.
func (s *Services) names() []string {
	out := make([]string, 0, len(s.byName))
	for name := range s.byName {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}

func quoted(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func (s *Services) get(name string) *service {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byName[name]
}
