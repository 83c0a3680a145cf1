package rendezvous

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/seal"
	"rendezvous/internal/share"
)

// Status is what `rendezvous status --json` prints.
type Status struct {
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
	PortStatus
	Host          string             `json:"host"` // HOST:PORT of join links
	Members       []MemberStatus     `json:"members"`
	Connections   int                `json:"connections"` // open, of agents and strangers, over UDP and TCP
	Introductions IntroductionCounts `json:"introductions"`
	Relay         RelayStatus        `json:"relay"`
	TLSLegs       int                `json:"tls_legs"` // relay legs over TLS that are open
	Splices       SpliceStatus       `json:"splices"`
	STUN          map[string]uint64  `json:"stun"`
	Drops         map[string]uint64  `json:"drops"` // by reason
}

// PortStatus is on which ports the coordinator is open, and for whom.
type PortStatus struct {
	Listen []string           `json:"listen"` // over UDP
	Doors  []DoorStatus       `json:"doors"`
	Public []PublicPortStatus `json:"public"`
	Stripe *StripeStatus      `json:"stripe,omitempty"`
	// Share is the programs that our ports are shared with.
	Share []share.BackendStatus `json:"share,omitempty"`
}

// StripeStatus is port striping as the coordinator keeps it itself.
type StripeStatus struct {
	Applied  bool        `json:"applied"`
	Problem  string      `json:"problem,omitempty"` // why not
	Since    *time.Time  `json:"since,omitempty"`   // the last change of the rules
	Restored int         `json:"restored"`          // times that somebody else had changed them
	Addrs    []string    `json:"addresses,omitempty"`
	UDP      *StripeLead `json:"udp,omitempty"`
	TCP      *StripeLead `json:"tcp,omitempty"`
}

// StripeLead is which ports lead to one of the coordinator's.
type StripeLead struct {
	To      uint16 `json:"to"`
	Count   int    `json:"count"`
	LeftOut string `json:"left_out"` // "22, 443, 30000-30100"
}

// DoorStatus is an address and transport that the coordinator listens on, or
// would but for the Problem.
type DoorStatus struct {
	Transport string `json:"transport"` // udp, tcp or faketcp
	Addr      string `json:"addr,omitempty"`
	Problem   string `json:"problem,omitempty"`
}

// MemberStatus is one agent in Status.
type MemberStatus struct {
	Name        string     `json:"name"`
	Fingerprint string     `json:"fingerprint"`
	Admitted    bool       `json:"admitted"` // false: it waits for `agent approve`
	Online      bool       `json:"online"`
	Addr        string     `json:"addr,omitempty"`
	Transport   string     `json:"transport,omitempty"`
	RTT         float64    `json:"rtt_ms,omitempty"`
	Since       *time.Time `json:"since,omitempty"` // when it came online
	Version     string     `json:"version,omitempty"`
	Enrolled    time.Time  `json:"enrolled"`
}

// RelayStatus is the relay's part of Status.
type RelayStatus struct {
	Allocations int    `json:"allocations"`
	Sessions    int    `json:"sessions"` // allocations with both legs bound
	Datagrams   uint64 `json:"datagrams"`
	Bytes       uint64 `json:"bytes"`
	Refused     uint64 `json:"refused"`
}

// Status is a snapshot.
func (s *Server) Status() (Status, error) {
	st := Status{
		PID:           os.Getpid(),
		Version:       s.config.Version,
		Since:         s.started.UTC(),
		Introductions: s.introductions.stats(),
		Members:       []MemberStatus{},
	}
	for _, a := range s.Addrs() {
		st.Listen = append(st.Listen, a.String())
	}
	st.Doors, st.TLSLegs = s.doorStatus(), int(s.front.legs.Load())
	st.Splices = s.front.splices.status()
	if s.share != nil {
		st.Share = s.share.Status()
	}
	st.Public = s.public.status()
	members, err := s.registry.Members()
	if err != nil {
		return st, err
	}
	if st.Host, err = s.registry.Host(); err != nil {
		return st, err
	}
	online := s.present.all()
	for _, m := range members {
		key, _ := keyOf(m.Key)
		st.Members = append(st.Members, memberStatus(m, online[key]))
	}
	slices.SortFunc(st.Members, func(a, b MemberStatus) int { return cmp.Compare(a.Name, b.Name) })
	st.Connections, st.Relay, st.STUN, st.Drops = s.counters()
	if s.config.Stripe != nil {
		st.Stripe = s.config.Stripe()
	}
	return st, nil
}

func (s *Server) doorStatus() []DoorStatus {
	var out []DoorStatus
	for _, each := range s.sockets {
		out = append(out, DoorStatus{Transport: transportWord(each.transport), Addr: each.local.String()})
	}
	for _, each := range s.streams {
		out = append(out, DoorStatus{Transport: transportWord(each.transport), Addr: each.local.String()})
	}
	for _, each := range s.shut {
		d := DoorStatus{Transport: transportWord(each.transport), Problem: each.err.Error()}
		if each.at.IsValid() {
			d.Addr = each.at.String()
		}
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b DoorStatus) int { return cmp.Compare(a.Transport, b.Transport) })
	return out
}

func memberStatus(m member, here attendance) MemberStatus {
	out := MemberStatus{
		Name: m.Name, Fingerprint: seal.Fingerprint(m.Key), Admitted: m.Admitted, Enrolled: m.Enrolled,
	}
	if here.conn == nil {
		return out
	}
	since := here.since.UTC()
	out.Online, out.Since, out.Version = true, &since, here.version
	now := here.conn.look()
	out.Addr, out.Transport = now.remote.String(), now.transport
	out.RTT = float64(now.roundTrip.Microseconds()) / 1000
	return out
}

// counters are the figures that need no look into the registry.
func (s *Server) counters() (connections int, r RelayStatus, stunCounts, dropCounts map[string]uint64) {
	stunCounts = map[string]uint64{"answered": 0, "refused": 0, "limited": 0, "malformed": 0, "other": 0}
	for _, g := range s.groups() {
		st := g.responder.Stats()
		stunCounts["answered"] += st.Answered
		stunCounts["refused"] += st.Refused
		stunCounts["limited"] += st.Limited
		stunCounts["malformed"] += st.Malformed
		stunCounts["other"] += st.Other
	}
	rs := s.relay.Stats()
	r = RelayStatus{Allocations: rs.Allocations, Sessions: rs.Sessions, Datagrams: rs.Datagrams, Bytes: rs.Bytes, Refused: rs.Refused}
	dropCounts = map[string]uint64{
		"unknown-kind":    s.drops.unknownKind.Load(),
		"stun-write":      s.drops.stunWrite.Load(),
		"bad-message":     s.drops.badMessage.Load(),
		"flood":           s.drops.flood.Load(),
		"slow-reader":     s.drops.slow.Load(),
		"request-refused": s.drops.requests.Load(),
		"wake-write":      s.drops.wakes.Load(),
		"carrier":         s.drops.carriers.Load(),
		"lean-forged":     s.drops.lean.Load(),
	}
	for why, n := range rs.Drops {
		dropCounts["relay-"+why] = n
	}
	var quicDrops uint64
	for _, each := range s.sockets {
		quicDrops += each.packets.Dropped()
	}
	dropCounts["quic-queue"] = quicDrops
	s.front.count(dropCounts)
	if all, ok := s.config.Network.(dgram.Totals); ok {
		maps.Copy(dropCounts, all.Totals().Reasons())
	}
	if s.share != nil {
		maps.Copy(dropCounts, s.share.Drops())
	}
	s.door.mu.Lock()
	connections = s.door.open
	dropCounts["connection-refused"] = s.door.refused
	dropCounts["connection-retried"] = s.door.retried
	s.door.mu.Unlock()
	streams, _ := s.front.gate.open.Open()
	connections += streams
	dropCounts["connection-refused"] += s.front.gate.refused.Load()
	return connections, r, stunCounts, dropCounts
}

// groups are all that answer STUN.
func (s *Server) groups() []*stunGroup {
	var out []*stunGroup
	add := func(g *stunGroup) {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	for _, each := range s.sockets {
		add(each.group)
	}
	for _, each := range s.streams {
		add(each.group)
	}
	return out
}

// count adds what was not served over TCP.
func (f *front) count(drops map[string]uint64) {
	d := &f.drops
	for reason, n := range map[string]*atomic.Uint64{
		"tcp-unknown":     &d.unknown,
		"tcp-silent":      &d.silent,
		"tcp-handshake":   &d.handshake,
		"tcp-stun":        &d.stun,
		"tcp-accept":      &d.accept,
		"tls-streams":     &d.streams,
		"tls-no-member":   &d.legs,
		"tls-splice":      &d.splices,
		"relay-malformed": &d.malformed,
		"relay-slow-leg":  &d.queue,
		"unknown-kind":    &d.datagrams,
	} {
		drops[reason] += n.Load()
	}
}
