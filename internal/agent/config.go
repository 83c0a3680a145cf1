package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/forward"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/portmap"
	"rendezvous/internal/punch"
	"rendezvous/internal/session"
	"rendezvous/proto"
)

// Config is all that an agent runs by: what users write, and what the command
// hands over.
type Config struct {
	Settings
	State   *State
	Version string
	Log     zerolog.Logger
	Host    Host
	Dialers Dialers
}

// Settings are what users write in agent.yaml or on the command line.
type Settings struct {
	Name      string // must be the name the agent joined by; "" leaves it at that
	Expose    []Service
	Dial      []Dial
	Paths     []path.Kind // those allowed; empty allows all
	Ports     []uint16    // of the coordinator, that are tried before all others, in this order
	Flows     FlowLimits
	Public    PublicLimits
	Keepalive time.Duration // between datagrams that hold a NAT's mapping on an idle path
	Degraded  session.Thresholds
	Disguise  faketcp.Options // how fake TCP looks
	Ignore    []string        // interfaces whose addresses are no candidates; a pattern as in path.Match
	Speed
	Opening
	Telling
}

// Speed is what the kernel may do for us.
type Speed struct {
	Offload  bool // send and receive bursts in one system call (UDP GSO and GRO)
	FastPath bool // have the kernel forward raw flows on direct-udp by itself; privileged
}

// Opening is how ways through NATs are made.
type Opening struct {
	Portmap bool // ask the router for ports: PCP, NAT-PMP, UPnP
	Punch   Punch
}

// Punch is what punches may do beyond probing the peer's candidates.
type Punch struct {
	Budget punch.Budget
	Spray  bool // try many ports by chance where one NAT's are random
}

// Telling is what the agent tells those who run it.
type Telling struct {
	Metrics  string // host:port to serve Prometheus metrics on; "" for none
	LogLevel string // one of ops.LogLevels
}

// Host is what this host sends and receives with.
type Host struct {
	Net       dgram.Network
	TCP       dgram.Streams // nil: no TCP connections of ours
	Local     dgram.Streams // to services and of clients on this host and in its networks; nil: no TCP services
	FakeTCP   dgram.FakeTCP // nil: none, for the reason in NoFakeTCP
	NoFakeTCP *path.Failure
	Resolve   forward.Resolve
	// Gateways are the default gateways, which are asked for ports; nil: nobody
	// is asked.
	Gateways func() ([]portmap.Gateway, error)
	FastPath FastPath
	// Changes tells when addresses or routes of this host change, until ctx ends;
	// nil: they are looked at every two seconds.
	Changes func(ctx context.Context) (<-chan struct{}, error)
}

// Dialers make connections to the coordinator.
type Dialers struct {
	Connect    Connect
	ConnectTLS ConnectTLS // nil: no control connection over TLS
	RelayTLS   RelayTLS   // nil: no relay over TLS
	Splice     Splice     // nil: no streams of bytes through the relay
	Streams    DialStreams
	StreamsTLS DialStreamsTLS // nil, and Streams: no public TCP ports that way
}

// FlowLimits says how long a client's flow is kept and how many there may be.
type FlowLimits struct {
	Unanswered time.Duration // kept since the last datagram while the service never answered
	Answered   time.Duration // kept since the last datagram once it did
	Max        int           // with each peer; the least recently used makes room
}

// PublicLimits are for the public UDP ports of this agent's services. The
// coordinator may grant less.
type PublicLimits struct {
	Spares     int           // legs that stand ready on each port: as many new clients at once lose nothing
	Idle       time.Duration // a client's leg is kept since it sent last
	Keepalive  time.Duration // between binds of a leg, which hold the NATs' mappings
	MaxClients int           // of all ports; the one that was silent longest makes room
}

// DefaultConfig is what holds where nothing is written.
func DefaultConfig() Config {
	return Config{Settings: Settings{
		// Linux conntrack's own figures for UDP are 30 s and 120 s; a flow of
		// ours outlives them, so that it never dies before the NAT's entry.
		Flows: FlowLimits{Unanswered: time.Minute, Answered: 3 * time.Minute, Max: 10_000},
		// 60 s as flows that nobody answered; phones that sleep come back by the
		// next spare.
		Public: PublicLimits{Spares: 4, Idle: time.Minute, Keepalive: 15 * time.Second, MaxClients: 10_000},
		// RFC 8445 section 11 wants 15 s or more; a quarter of the NATs forget a
		// UDP mapping after 30 s.
		Degraded: session.DefaultThresholds(),
		// The proof of packed mode sends segments that a NAT which checks
		// numbers drops as invalid and a strict one resets for, and most NATs
		// check: it is opt-in.
		Disguise:  faketcp.Options{},
		Keepalive: 15 * time.Second,
		Speed:     Speed{Offload: true},
		Opening:   Opening{Portmap: true, Punch: Punch{Budget: punch.DefaultBudget, Spray: true}},
		Telling:   Telling{LogLevel: "info"},
	}}
}

// Check returns every fault of the config, joined, or nil.
func (c Config) Check() error {
	faults := slices.Concat(c.checkServices(), c.checkFlows(), c.checkPorts(), c.checkPublic())
	add := func(key, format string, args ...any) { faults = append(faults, ops.Faultf(key, format, args...)) }
	if c.Name != "" {
		if err := CheckName("agent's", c.Name); err != nil {
			add("name", "%s", err)
		}
	}
	if c.Keepalive < time.Second || c.Keepalive > 10*time.Minute {
		add("keepalive", "it is %s and must be from 1s to 10m", c.Keepalive)
	}
	if c.Degraded.Loss <= 0 || c.Degraded.Loss >= 1 || c.Degraded.RTT <= 0 {
		add("degraded", "loss is %v and must be more than 0 and less than 100 percent; rtt is %s and must be more than 0", 100*c.Degraded.Loss, c.Degraded.RTT)
	}
	if err := c.Disguise.Check(); err != nil {
		add("faketcp", "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for _, fault := range c.Punch.Budget.Faults() {
		add("punch", "%s", fault)
	}
	for _, pattern := range c.Ignore {
		if _, err := filepath.Match(pattern, ""); err != nil {
			add("interfaces", "ignore: %q is not a pattern like docker*", pattern)
		}
	}
	if !slices.Contains(ops.LogLevels[:], c.LogLevel) {
		add("log", "there is no log level %q; there are %v", c.LogLevel, ops.LogLevels)
	}
	if c.Metrics != "" {
		if _, _, err := net.SplitHostPort(c.Metrics); err != nil {
			add("metrics", "%q is not HOST:PORT, as in 127.0.0.1:9464", c.Metrics)
		}
	}
	return errors.Join(faults...)
}

func (c Config) checkPorts() []error {
	if slices.Contains(c.Ports, 0) || len(c.Ports) > maxPreferred {
		return []error{ops.Faultf("ports", "they must be from 1 to 65535, and %d at most", maxPreferred)}
	}
	return nil
}

func (c Config) checkFlows() (faults []error) {
	f := c.Flows
	if f.Unanswered < time.Second || f.Answered < f.Unanswered {
		faults = append(faults, ops.Faultf("flows", "unanswered (%s) must be 1s or more, and answered (%s) no less than that", f.Unanswered, f.Answered))
	}
	if f.Max < 1 || f.Max > proto.MaxFlow {
		faults = append(faults, ops.Faultf("flows", "max is %d and must be from 1 to %d", f.Max, proto.MaxFlow))
	}
	return faults
}

func (c Config) checkPublic() (faults []error) {
	add := func(key, format string, args ...any) { faults = append(faults, ops.Faultf(key, format, args...)) }
	p := c.Public
	if p.Spares < 1 || p.Spares > maxGrant {
		add("public", "spares is %d and must be from 1 to %d", p.Spares, maxGrant)
	}
	if p.Idle < time.Second || p.Keepalive < time.Second || p.Keepalive > time.Minute {
		add("public", "idle (%s) must be 1s or more, and keepalive (%s) from 1s to 1m", p.Idle, p.Keepalive)
	}
	if p.MaxClients < 1 {
		add("public", "max_clients is %d and must be 1 or more", p.MaxClients)
	}
	wanted := make(map[string]Service)
	for _, s := range c.Expose {
		port := fmt.Sprintf("%s/%d", s.Scheme, s.Public)
		if other, twice := wanted[port]; twice && s.Public != 0 && other.Name != s.Name {
			add("expose", "%s and %s both ask for the public port %s", other.Name, s.Name, port)
		}
		wanted[port] = s
		allowed, _ := s.Only.Narrow(path.KindsOf(c.Paths...))
		if s.Public != 0 && allowed != 0 && !slices.ContainsFunc(relayKinds, allowed.Has) {
			add("expose", "%s asks for a public port, which comes through the relay, and no such path is allowed", s)
		}
	}
	return faults
}

// checkServices finds names and addresses that are given twice.
func (c Config) checkServices() (faults []error) {
	exposed := make(map[string]Service)
	for _, s := range c.Expose {
		if other, twice := exposed[s.Name]; twice {
			faults = append(faults, ops.Faultf("expose", "%s is given twice, as %s and as %s", s.Name, other.URL(), s.URL()))
		}
		exposed[s.Name] = s
	}
	for _, s := range c.Expose {
		faults = append(faults, c.checkRule("expose", s.String(), s.Only)...)
	}
	for _, d := range c.Dial {
		faults = append(faults, c.checkRule("dial", d.String(), d.Only)...)
	}
	addrs := make(map[string]Dial)
	for _, d := range c.Dial {
		other, twice := addrs[d.at()]
		switch {
		case twice && other.Target() == d.Target():
			faults = append(faults, ops.Faultf("dial", "%s is given twice, on %s and on %s", d.Target(), other.URL(), d.URL()))
		case twice && d.Port != 0:
			faults = append(faults, ops.Faultf("dial", "%s and %s both listen on %s; give one another port", other.Target(), d.Target(), d.URL()))
		}
		addrs[d.at()] = d
	}
	return faults
}

// checkRule finds a service that none of the paths allowed here may carry.
func (c Config) checkRule(key, what string, only path.Kinds) []error {
	if _, ok := only.Narrow(path.KindsOf(c.Paths...)); ok {
		return nil
	}
	return []error{ops.Faultf(key, "%s allows none of the paths that are allowed here, %v", what, c.Paths)}
}

// AddFlags adds what the command line gave to c: --expose, --dial and --paths,
// the last a list with commas. It returns every fault, joined.
func (c *Config) AddFlags(expose, dial []string, paths string) error {
	var faults []error
	for _, arg := range expose {
		s, err := ParseExposeFlag(arg)
		if err != nil {
			faults = append(faults, fmt.Errorf("--expose: %w", err))
			continue
		}
		c.Expose = append(c.Expose, s)
	}
	for _, arg := range dial {
		d, err := ParseDialFlag(arg)
		if err != nil {
			faults = append(faults, fmt.Errorf("--dial: %w", err))
			continue
		}
		c.Dial = append(c.Dial, d)
	}
	if paths != "" {
		kinds, err := parsePaths(strings.Split(paths, ","))
		if err != nil {
			faults = append(faults, fmt.Errorf("--paths: %w", err))
		}
		c.Paths = kinds // the flag narrows: it stands instead of the file's list
	}
	return errors.Join(faults...)
}

func parsePaths(words []string) (kinds []path.Kind, err error) {
	var faults []error
	for _, word := range words {
		k, err := path.ParseKind(strings.TrimSpace(word))
		if err != nil {
			faults = append(faults, err)
		} else if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds, errors.Join(faults...)
}
