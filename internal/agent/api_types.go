package agent

import (
	"context"
	"time"

	"rendezvous/internal/session"
)

// Status is what `agent status --json` prints. Lists are never null there.
type Status struct {
	Name        string            `json:"name"`
	PID         int               `json:"pid"`
	Version     string            `json:"version"`
	Fingerprint string            `json:"fingerprint,omitempty"` // of this agent's own key, for people to compare
	Waiting     string            `json:"waiting,omitempty"`     // why nothing can be carried yet: not approved, revoked; "" when all is well
	Coordinator CoordinatorStatus `json:"coordinator"`
	Services    []ServiceStatus   `json:"services"`
	Dials       []DialStatus      `json:"dials"`
	Peers       []PeerStatus      `json:"peers"`
	// Routers are those here that map ports for us.
	Routers  []RouterStatus    `json:"routers,omitempty"`
	Punch    *PunchStatus      `json:"punch,omitempty"`
	FastPath *FastPathStatus   `json:"fastpath,omitempty"` // nil: it was not asked for
	Counters map[string]uint64 `json:"counters,omitempty"` // what was dropped, by reason
}

// PunchStatus is what punches sent beyond probing the peers' candidates, and what
// they may send, all in datagrams.
type PunchStatus struct {
	PerSecond  int    `json:"per_second"`
	PerTarget  int    `json:"per_target"`  // to one address in an attempt
	PerAttempt int    `json:"per_attempt"` // to all addresses
	Spray      bool   `json:"spray"`       // many ports may be tried by chance
	Spraying   bool   `json:"spraying"`    // that is under way now
	Sent       uint64 `json:"sent"`
	Cut        uint64 `json:"cut"`     // attempts that the budget, or refusals, ended
	Refused    uint64 `json:"refused"` // answered by ICMP as unreachable; counted on Linux
}

// FastPathStatus is the kernel's forwarding of raw flows.
type FastPathStatus struct {
	Flows int    `json:"flows"`           // that it forwards now: those in use
	Error string `json:"error,omitempty"` // why it forwards none, or not the last that began
}

// CoordinatorStatus is the agent's side of its control connection.
type CoordinatorStatus struct {
	Connected bool   `json:"connected"`
	Transport string `json:"transport"`      // "quic" or "tls", "" while not connected
	Over      string `json:"over,omitempty"` // what carries that: "udp", "faketcp" or "tcp"
	Via       string `json:"via,omitempty"`  // the proxy that it goes through
	Addr      string `json:"addr"`
	// RelayPort is where relay legs over UDP go by the agent's own choice, and
	// Ports what was measured of those that the settings prefer.
	RelayPort int          `json:"relay_port,omitempty"`
	Ports     []PortStatus `json:"ports,omitempty"`
	RTT       float64      `json:"rtt_ms"`
	Error     string       `json:"error,omitempty"` // why it is not connected
}

// PortStatus is what was measured of one of the coordinator's ports over UDP.
type PortStatus struct {
	Port     int     `json:"port"`
	Sent     int     `json:"sent"` // STUN requests
	Answered int     `json:"answered"`
	RTT      float64 `json:"rtt_ms"` // the median; 0: none was answered
}

// ServiceStatus is a local service that peers may dial.
type ServiceStatus struct {
	Name  string   `json:"name"`
	URL   string   `json:"url"`
	Paths []string `json:"paths,omitempty"` // the kinds that may carry its datagrams; none: all
	Flows int      `json:"flows"`
	// Public is the port that the coordinator is asked to open for clients
	// without an agent; nil: none.
	Public *PublicStatus `json:"public,omitempty"`
}

// The states of a public port in PublicStatus.
const (
	PublicOpen    = "open"
	PublicRefused = "refused"
	PublicWaiting = "waiting" // for the coordinator's answer
)

// PublicStatus is a port of the coordinator that leads to a service here.
type PublicStatus struct {
	Port       int      `json:"port"`
	State      string   `json:"state"`
	Reason     string   `json:"reason,omitempty"` // why it was refused
	Addrs      []string `json:"addrs,omitempty"`  // where clients reach it, as far as the coordinator knows
	Clients    int      `json:"clients"`          // that are served now
	Spares     int      `json:"spares"`           // legs that stand ready for the next ones
	Total      uint64   `json:"total"`            // clients since it was opened
	Unanswered int      `json:"unanswered"`       // clients that the service has not answered, of those served now; of UDP
}

// DialStatus is a local address that leads to a peer's service.
type DialStatus struct {
	Peer    string   `json:"peer"`
	Service string   `json:"service"`
	Listen  string   `json:"listen"`          // a URL
	Paths   []string `json:"paths,omitempty"` // the kinds that may carry its datagrams, by the service's rule as well; none: all
	Flows   int      `json:"flows"`
	Error   string   `json:"error,omitempty"` // why it does not listen, or what the peer answered last
}

// PeerStatus is a peer that this agent has a session with, or wants one.
type PeerStatus struct {
	Name       string       `json:"name"`
	Path       string       `json:"path"` // a path.Kind, "" while there is none
	Local      string       `json:"local"`
	Remote     string       `json:"remote"`
	RTT        float64      `json:"rtt_ms"`
	Loss       float64      `json:"loss"`        // 0 to 1
	ServiceMTU int          `json:"service_mtu"` // the largest datagram of a service that crosses the path whole, in bytes; 0 while unknown
	Since      time.Time    `json:"since,omitzero"`
	TxBytes    uint64       `json:"tx_bytes"`
	RxBytes    uint64       `json:"rx_bytes"`
	Paths      []PathStatus `json:"paths"`
}

// The states of a path in PathStatus.
const (
	PathSpare  = session.StateSpare
	PathBest   = session.StateBest
	PathFailed = session.StateFailed
	PathTrying = session.StateTrying
)

// PathStatus is one path to a peer.
type PathStatus struct {
	Path   string  `json:"path"`
	State  string  `json:"state"`
	Remote string  `json:"remote"`
	RTT    float64 `json:"rtt_ms"`
}

// PingLine is one answer of a ping, or why there was none.
type PingLine struct {
	Peer   string  `json:"peer"`
	Path   string  `json:"path,omitempty"`
	Remote string  `json:"remote,omitempty"`
	RTT    float64 `json:"rtt_ms,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Explain is what was tried to reach a peer, on both sides.
type Explain struct {
	Peer     string    `json:"peer"`
	Path     string    `json:"path"` // the best path now, "" while there is none
	Attempts []Attempt `json:"attempts"`
}

// The results and sides of an Attempt.
const (
	ResultOK      = "ok"
	ResultFailed  = "failed"
	ResultSkipped = "skipped"
	SideLocal     = "local"
	SideRemote    = "remote"
)

// Attempt is one try of one rung.
type Attempt struct {
	Path     string    `json:"path"`
	Result   string    `json:"result"`
	Reason   string    `json:"reason"` // a code that scripts may compare
	Evidence string    `json:"evidence"`
	Advice   string    `json:"advice"`
	Started  time.Time `json:"started"`
	MS       int64     `json:"ms"` // how long it took, in milliseconds
	Side     string    `json:"side"`
}

// Netcheck is what the network here does to datagrams. The words of Mapping,
// Filtering and TCPMapping are RFC 4787's, or "unknown".
type Netcheck struct {
	UDP             bool           `json:"udp"`
	IPv4            bool           `json:"ipv4"`
	IPv6            bool           `json:"ipv6"`
	Mapped          []string       `json:"mapped"`
	Mapping         string         `json:"mapping"`
	Filtering       string         `json:"filtering"`
	TCPMapping      string         `json:"tcp_mapping"`
	PortPreserving  bool           `json:"port_preserving"`
	PortDelta       int            `json:"port_delta"`
	Hairpin         bool           `json:"hairpin"`
	CGNAT           bool           `json:"cgnat"`
	Portmap         []string       `json:"portmap"`
	Routers         []RouterStatus `json:"routers,omitempty"`  // that answered, with the mapping that was made and taken back
	MappingLifetime int            `json:"mapping_lifetime_s"` // what an idle mapping outlasts, as a running agent has found out; 0: not known
	// AbsoluteLifetime is the age at which mappings end whatever crosses them;
	// 0: not known, or none where NoAbsolute says so.
	AbsoluteLifetime int    `json:"absolute_lifetime_s"`
	NoAbsolute       bool   `json:"no_absolute_lifetime,omitempty"`
	FakeTCP          string `json:"faketcp"`
	UsablePorts      []int  `json:"usable_ports"` // over UDP
	TCPPorts         []int  `json:"tcp_ports"`
	FakeTCPPorts     []int  `json:"faketcp_ports"`
	TLS              bool   `json:"tls"`           // the coordinator answers over TLS
	Via              string `json:"via,omitempty"` // through this proxy
	// Middlebox is what boxes on the way do to TCP: split-tcp,
	// sequence-rewriting, coalescing, window-clamping, option-stripping,
	// mss-clamping.
	Middlebox []string `json:"middlebox"`
	// MappingNot and its like were ruled out, where the behaviour itself
	// stays unknown.
	MappingNot    []string `json:"mapping_not,omitempty"`
	FilteringNot  []string `json:"filtering_not,omitempty"`
	TCPMappingNot []string `json:"tcp_mapping_not,omitempty"`
	// Pool are the outside addresses, where a NAT takes any of several.
	Pool []string `json:"pool,omitempty"`
	// Measured are tests of the paths with peers, by the running agent. What
	// servers saw puts attempts in order; this is what passes.
	Measured []PingLine `json:"measured,omitempty"`
}

// PendingMember joined by a coordinator's link and waits to be admitted.
type PendingMember struct {
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"`
	Joined      time.Time `json:"joined,omitzero"`
}

// Millis is d as the JSON figures have it: milliseconds, to the microsecond.
func Millis(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// Watcher tells how things are.
type Watcher interface {
	Status() Status
	// Ping sends one probe on the best path and waits for its answer; it makes
	// the session if there is none.
	Ping(ctx context.Context, peer string) (PingLine, error)
	// Explain asks the peer for its side too, as far as ctx allows.
	Explain(ctx context.Context, peer string) (Explain, error)
}

// Control changes services and dials of the running agent. The agent itself
// keeps what was added across restarts (State.PutService and its like).
type Control interface {
	Expose(name, url string) error
	Unexpose(name string) error
	Dial(peer, service, url string) error
	Hangup(peer, service, url string) error
}

// Membership admits and removes members.
type Membership interface {
	Invite(ctx context.Context, expires time.Duration) (link string, err error)
	Pending(ctx context.Context) ([]PendingMember, error)
	// Approve hands the network's secret to a pending member. Where
	// fingerprint is not empty it must be that of the member's key: it is what
	// a person compared, and the coordinator could have swapped keys since.
	Approve(ctx context.Context, name, fingerprint string) error
	Revoke(ctx context.Context, name string) error
}

// Daemon is a running agent as the other commands see it.
type Daemon interface {
	Watcher
	Control
	Membership
}
