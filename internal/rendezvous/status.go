package rendezvous

import (
	"cmp"
	"os"
	"slices"
	"time"

	"rendezvous/internal/seal"
)

// Status is what `rendezvous status --json` prints.
type Status struct {
	PID           int                `json:"pid"`
	Version       string             `json:"version"`
	Since         time.Time          `json:"since"`
	Listen        []string           `json:"listen"`
	Host          string             `json:"host"` // HOST:PORT of join links
	Members       []MemberStatus     `json:"members"`
	Connections   int                `json:"connections"` // open, of agents and strangers
	Introductions IntroductionCounts `json:"introductions"`
	Relay         RelayStatus        `json:"relay"`
	STUN          map[string]uint64  `json:"stun"`
	Drops         map[string]uint64  `json:"drops"` // by reason
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
	return st, nil
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
	out.Addr, out.Transport = here.conn.address().String(), here.conn.transport()
	out.RTT = float64(here.conn.roundTrip().Microseconds()) / 1000
	return out
}

// counters are the figures that need no look into the registry.
func (s *Server) counters() (connections int, r RelayStatus, stunCounts, dropCounts map[string]uint64) {
	stunCounts = map[string]uint64{"answered": 0, "refused": 0, "limited": 0, "malformed": 0, "other": 0}
	done := map[*stunGroup]bool{}
	for _, each := range s.sockets {
		if done[each.group] {
			continue
		}
		done[each.group] = true
		st := each.group.responder.Stats()
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
	}
	for why, n := range rs.Drops {
		dropCounts["relay-"+why] = n
	}
	var quicDrops uint64
	for _, each := range s.sockets {
		quicDrops += each.packets.Dropped()
	}
	dropCounts["quic-queue"] = quicDrops
	s.door.mu.Lock()
	connections = s.door.open
	dropCounts["connection-refused"] = s.door.refused
	dropCounts["connection-retried"] = s.door.retried
	s.door.mu.Unlock()
	return connections, r, stunCounts, dropCounts
}
