package stun

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/sources"
)

// Socket names one of a responder's sockets: its first or second address, and
// the first or second port on it. Each is 0 or 1.
type Socket struct{ Address, Port uint8 }

// Sockets are the outside addresses of a responder's sockets, by address and
// port as in Socket; the zero AddrPort where there is no such socket. A socket
// whose outside address isn't known has the unspecified address and its port:
// it is used, but not announced.
type Sockets [2][2]netip.AddrPort

func (s *Sockets) at(i Socket) netip.AddrPort { return s[i.Address&1][i.Port&1] }

func (s *Sockets) exists(i Socket) bool { return s.at(i).IsValid() }

func (s *Sockets) announced(i Socket) bool {
	return s.exists(i) && !s.at(i).Addr().IsUnspecified()
}

// Answer is a datagram to send: from one of the responder's sockets, to an
// address, which differs from the request's source only where RESPONSE-PORT
// asked for that.
type Answer struct {
	From    Socket
	To      netip.AddrPort
	Message []byte
}

// ResponderStats count datagrams since the responder was made.
type ResponderStats struct {
	Answered  uint64 // requests answered with an address
	Refused   uint64 // requests answered with an error
	Limited   uint64 // requests left unanswered, because their source had too many answers larger than they were
	Malformed uint64 // no STUN message, or a source that can't be answered
	Other     uint64 // STUN, but no Binding request
}

// largerAnswers is what a source may be sent that is larger than what it asked
// with. A bare request of 20 bytes is answered with at most 64, or 100 over
// IPv6: at this pace a forged source is sent under 1 kB/s.
var largerAnswers = sources.Rate{Every: 100 * time.Millisecond, Burst: 40}

// Responder answers Binding requests (RFC 8489) and their additions of RFC
// 5780. It is a table: it owns no socket and no goroutine. Safe for concurrent
// use, as each of its sockets has a reader.
type Responder struct {
	sockets Sockets

	mu     sync.Mutex
	larger *sources.Buckets // answers that are larger than what was asked with
	stats  ResponderStats
}

// NewResponder makes a responder for the given sockets.
func NewResponder(sockets Sockets) *Responder {
	for a := range sockets {
		for p := range sockets[a] {
			if sockets[a][p].IsValid() {
				sockets[a][p] = plain(sockets[a][p])
			}
		}
	}
	return &Responder{sockets: sockets, larger: sources.NewBuckets()}
}

// Stats are the counters so far.
func (r *Responder) Stats() ResponderStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Answer says what to send for a datagram that came in on a socket; false
// where the answer is silence. An answer that is larger than the request, or
// that goes to a port which didn't ask, is rate limited by source, because a
// source may be forged to have us pester its owner.
func (r *Responder) Answer(now time.Time, in Socket, from netip.AddrPort, request []byte) (Answer, bool) {
	from = plain(from)
	m, err := parse(request)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil || !answerable(from):
		r.stats.Malformed++
		return Answer{}, false
	case m.Type != pion.BindingRequest:
		r.stats.Other++ // also every answer, so that two responders can't chatter
		return Answer{}, false
	}

	answer, refused := r.respond(in, from, m)
	if len(answer.Message) > len(request) || answer.To != from {
		if !r.larger.Take(now, from.Addr(), largerAnswers) {
			r.stats.Limited++
			return Answer{}, false
		}
	}
	if refused {
		r.stats.Refused++
	} else {
		r.stats.Answered++
	}
	return answer, true
}

func answerable(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast()
}

// respond builds the answer, and says whether it is an error.
func (r *Responder) respond(in Socket, from netip.AddrPort, m *pion.Message) (Answer, bool) {
	refuse := func(code pion.ErrorCode, unknown ...pion.AttrType) (Answer, bool) {
		return Answer{From: in, To: from, Message: refusal(m, code, unknown)}, true
	}
	if unknown := unknownAttributes(m); len(unknown) > 0 {
		return refuse(pion.CodeUnknownAttribute, unknown...)
	}
	w, ok := readWishes(m)
	if !ok {
		return refuse(pion.CodeBadRequest)
	}
	out := Socket{Address: in.Address ^ w.address, Port: in.Port ^ w.port}
	if out != in && !r.sockets.exists(out) {
		// RFC 5780 section 6.1: without the other address the attribute counts
		// as one that we don't know.
		return refuse(pion.CodeUnknownAttribute, pion.AttrChangeRequest)
	}
	to := from
	if w.responsePort != 0 {
		to = netip.AddrPortFrom(from.Addr(), w.responsePort)
	}
	return Answer{From: out, To: to, Message: r.success(m, in, out, from)}, false
}

// success is the answer to m, which came in on one socket and is answered from
// another or the same. SOFTWARE is left out: it would only help attackers, and
// make the answer larger.
func (r *Responder) success(m *pion.Message, in, out Socket, from netip.AddrPort) []byte {
	a := newMessage(pion.BindingSuccess, m.TransactionID)
	addAddress(a, pion.AttrXORMappedAddress, from)
	if r.sockets.announced(out) {
		addAddress(a, pion.AttrResponseOrigin, r.sockets.at(out))
	}
	other := Socket{Address: in.Address ^ 1, Port: in.Port ^ 1}
	otherPort := Socket{Address: in.Address, Port: in.Port ^ 1}
	otherIP := Socket{Address: in.Address ^ 1, Port: in.Port}
	switch {
	// Clients of RFC 5780 take OTHER-ADDRESS for a promise that every change
	// is honoured; some even take the error for a proof that the NAT filters
	// nothing. So it is only sent where all four sockets are there. And only
	// on the first address: coturn's natdiscovery goes on with what the other
	// address answered last, would be led back to the first one, and then
	// take address-dependent mapping for address-and-port-dependent.
	case in.Address == 0 && r.sockets.announced(other) && r.sockets.exists(otherPort) && r.sockets.exists(otherIP):
		addAddress(a, pion.AttrOtherAddress, r.sockets.at(other))
	case r.sockets.exists(otherPort):
		a.Add(attrOtherPort, binary.BigEndian.AppendUint16(nil, r.sockets.at(otherPort).Port()))
	}
	return finish(a, m)
}

// IsAnswerOf says whether b is what a Responder at an address answers to a request
// that may have wished the answer elsewhere: RFC 5780's CHANGE-REQUEST and
// RESPONSE-PORT have it sent from or to a port to which no request went. Where a
// NAT uses one port for several flows, such an answer comes to another socket
// than it was meant for. An error names no origin, and always goes back.
func IsAnswerOf(server netip.Addr, b []byte) bool {
	if len(b) < headerSize || b[0] != 1 || b[1] != 1 { // nearly all that is asked about
		return false
	}
	m, err := parse(b)
	if err != nil || m.Type != pion.BindingSuccess {
		return false
	}
	if m.Contains(attrOtherPort) {
		return true
	}
	at, ok := address(m, pion.AttrResponseOrigin)
	return ok && at.Addr() == server.Unmap().WithZone("")
}

// refusal is an error answer; unknown goes into UNKNOWN-ATTRIBUTES.
func refusal(m *pion.Message, code pion.ErrorCode, unknown []pion.AttrType) []byte {
	a := newMessage(pion.BindingError, m.TransactionID)
	must(code.AddTo(a))
	if len(unknown) > 0 {
		must(pion.UnknownAttributes(unknown).AddTo(a))
	}
	return finish(a, m)
}

// finish adds what stands last: FINGERPRINT, if the request had it.
func finish(a, request *pion.Message) []byte {
	if request.Contains(pion.AttrFingerprint) {
		must(pion.Fingerprint.AddTo(a))
	}
	return a.Raw
}

// maxUnknown bounds the list in UNKNOWN-ATTRIBUTES.
const maxUnknown = 16

// unknownAttributes are those that we must understand and don't. Those of
// authentication are known, and ignored: who asks is told regardless.
func unknownAttributes(m *pion.Message) []pion.AttrType {
	var unknown []pion.AttrType
	for _, a := range m.Attributes {
		switch a.Type {
		case pion.AttrChangeRequest, pion.AttrPadding, pion.AttrResponsePort,
			pion.AttrUsername, pion.AttrUserhash, pion.AttrRealm, pion.AttrNonce, pion.AttrPasswordAlgorithm,
			pion.AttrMessageIntegrity, pion.AttrMessageIntegritySHA256:
			continue
		}
		if a.Type.Required() && len(unknown) < maxUnknown && !slices.Contains(unknown, a.Type) {
			unknown = append(unknown, a.Type)
		}
	}
	return unknown
}

// wishes are what a request wants done with its answer.
type wishes struct {
	address, port uint8  // 1: from the other one
	responsePort  uint16 // 0: the request's source port
}

// minResponsePort is the lowest that RESPONSE-PORT may name: a client's test
// uses an ephemeral port, and system services must not be sent our answers.
const minResponsePort = 1024

// readWishes gives false for a request that RFC 5780 forbids. PADDING asks for
// padding in the answer (a SHOULD): we send none, because our datagrams are
// never fragmented.
func readWishes(m *pion.Message) (wishes, bool) {
	var w wishes
	if v, err := m.Get(pion.AttrChangeRequest); err == nil {
		if len(v) != 4 {
			return w, false
		}
		flags := binary.BigEndian.Uint32(v)
		w.address, w.port = uint8(flags&flagChangeIP>>2), uint8(flags&flagChangePort>>1)
	}
	if v, err := m.Get(pion.AttrResponsePort); err == nil {
		// Some count the two bytes of padding into the length.
		if len(v) != 2 && len(v) != 4 || m.Contains(pion.AttrPadding) {
			return w, false
		}
		w.responsePort = binary.BigEndian.Uint16(v)
		if w.responsePort < minResponsePort {
			return w, false
		}
	}
	return w, true
}
