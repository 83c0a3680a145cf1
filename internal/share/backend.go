package share

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
)

// backend is a Backend and what is known of it.
type backend struct {
	Backend
	log          zerolog.Logger
	conns, flows atomic.Int64  // now
	answered     atomic.Int64  // over UDP: seconds since the epoch, of the last answer
	total        atomic.Uint64 // of both, ever

	mu   sync.Mutex
	down map[string]error // by "tcp", "udp": why it does not serve
}

// failed notes that a backend is down, and logs it once until it is up.
func (b *backend) failed(over, at string, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down[over] == nil {
		b.log.Error().Err(why).Str("backend", b.Name).Msgf("%s does not answer over %s, which is shared with it; does that program run, and listen there?", at, over)
	}
	if b.down == nil {
		b.down = map[string]error{}
	}
	b.down[over] = why
}

// works notes that a backend is up.
func (b *backend) works(over string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down[over] != nil {
		delete(b.down, over)
		b.log.Info().Str("backend", b.Name).Msg("it is back over " + over)
	}
}

// problem is why a backend does not serve; "" when nothing is known against it.
func (b *backend) problem() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, over := range slices.Sorted(maps.Keys(b.down)) {
		all = append(all, over+": "+b.down[over].Error())
	}
	return strings.Join(all, "; ")
}

// BackendStatus is what `rendezvous status` shows of a backend.
type BackendStatus struct {
	Name        string `json:"name"`
	TCP         string `json:"tcp,omitempty"`
	UDP         string `json:"udp,omitempty"`
	Connections int64  `json:"connections"` // open
	Flows       int64  `json:"flows"`       // clients over UDP
	Total       uint64 `json:"total"`       // of both since the start
	Problem     string `json:"problem,omitempty"`
}

// Status is each backend's.
func (s *Sharing) Status() []BackendStatus {
	out := make([]BackendStatus, 0, len(s.all))
	for _, b := range s.all {
		st := BackendStatus{Name: b.Name, Connections: b.conns.Load(), Flows: b.flows.Load(), Total: b.total.Load(), Problem: b.problem()}
		if b.TCP.IsValid() {
			st.TCP = b.TCP.String()
		}
		if b.UDP.IsValid() {
			st.UDP = b.UDP.String()
		}
		out = append(out, st)
	}
	return out
}

// counters count what was not handed on, by reason.
type counters struct {
	hello      atomic.Uint64 // ClientHellos that are none, or too long
	refusedTCP atomic.Uint64 // connections above a bound
	backendTCP atomic.Uint64 // connections whose backend did not answer
	refusedUDP atomic.Uint64 // datagrams of clients above a bound
	evicted    atomic.Uint64 // flows that made room
	socket     atomic.Uint64 // datagrams for which there was no socket
	unanswered atomic.Uint64 // flows that ended without an answer
	strange    atomic.Uint64 // datagrams that others sent to a flow's socket
	write      atomic.Uint64 // datagrams that could not be sent
	large      atomic.Uint64 // datagrams larger than the way to the client
	incomplete atomic.Uint64 // QUIC's ClientHellos that did not become whole
}

// Drops are the counts by reason.
func (s *Sharing) Drops() map[string]uint64 {
	c := &s.count
	out := map[string]uint64{}
	for reason, n := range map[string]*atomic.Uint64{
		"share-tls-hello": &c.hello, "share-tcp-refused": &c.refusedTCP, "share-tcp-backend": &c.backendTCP,
		"share-udp-refused": &c.refusedUDP, "share-udp-evicted": &c.evicted, "share-udp-socket": &c.socket,
		"share-udp-unanswered": &c.unanswered, "share-udp-strange": &c.strange, "share-udp-write": &c.write,
		"share-udp-large": &c.large, "share-quic-incomplete": &c.incomplete,
	} {
		out[reason] = n.Load()
	}
	return out
}
