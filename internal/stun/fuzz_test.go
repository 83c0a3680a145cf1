package stun

import (
	"testing"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
)

// FuzzReceive: whatever comes in, a client delivers an answer only to the
// transaction that it belongs to, and counts every datagram once.
func FuzzReceive(f *testing.F) {
	id := transaction{1, 2, 3}
	success := newMessage(pion.BindingSuccess, id)
	addAddress(success, pion.AttrXORMappedAddress, ap("198.51.100.2:40000"))
	f.Add(success.Raw, true)
	f.Add(refusal(success, pion.CodeUnknownAttribute, []pion.AttrType{3}), false)
	for _, s := range []string{rfc5769Request, rfc5769IPv4, rfc5769IPv6, rfc5769LongTerm} {
		f.Add(unhex(f, s), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, same bool) {
		c := NewClient(func(dgram.Burst) error { return nil })
		call := &call{server: asked, done: make(chan outcome, 1)}
		c.pending[id] = request{call: call}
		from := asked
		if !same {
			from = ap("203.0.113.11:3478")
		}
		c.Receive(from, b)
		s := c.Stats()
		if s.Answered+s.Refused+s.Malformed+s.Unexpected+s.WrongSource != 1 {
			t.Errorf("counted %+v", s)
		}
		select {
		case o := <-call.done:
			if m, err := parse(b); err != nil || m.TransactionID != id || !same {
				t.Errorf("delivered %+v", o)
			}
			if o.err == nil && (!o.result.Mapped.IsValid() || o.result.Mapped.Port() == 0) {
				t.Errorf("delivered %+v", o)
			}
		default:
			if s.Answered+s.Refused != 0 {
				t.Error("an answer was lost")
			}
		}
	})
}

// FuzzAnswer: whatever comes in, a responder answers with a well-formed answer
// of the same transaction, small, from a socket that it has.
func FuzzAnswer(f *testing.F) {
	f.Add(bindingRequest(transaction{1}, 0), uint8(0))
	f.Add(bindingRequest(transaction{1}, flagChangeIP|flagChangePort), uint8(3))
	f.Add(bare(attr(pion.AttrResponsePort, 0x90, 1), attr(pion.AttrPadding, 1)), uint8(1))
	for _, s := range []string{rfc5769Request, rfc5769IPv4, rfc5769LongTerm} {
		f.Add(unhex(f, s), uint8(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, socket uint8) {
		from := ap("198.51.100.2:40000")
		for _, sockets := range []Sockets{fourSockets(), twoPorts(), {{ap("203.0.113.10:443")}}} {
			r := NewResponder(sockets)
			in := Socket{Address: socket >> 1 & 1, Port: socket & 1}
			if !sockets.exists(in) {
				continue
			}
			a, ok := r.Answer(start, in, from, b)
			if !ok {
				continue
			}
			request, err := parse(b)
			if err != nil || request.Type != pion.BindingRequest {
				t.Fatalf("answered %x", b)
			}
			m, err := parse(a.Message)
			if err != nil || m.TransactionID != request.TransactionID {
				t.Fatalf("answered with %x: %v", a.Message, err)
			}
			o, ok := decode(m, from)
			if !ok || o.err == nil && o.result.Mapped != from {
				t.Errorf("answered with %+v", o)
			}
			if at := sockets.at(a.From); o.err == nil && !IsAnswerOf(at.Addr(), a.Message) && sockets.announced(a.From) {
				t.Errorf("%x is not held to be an answer of %v", a.Message, at)
			}
			if IsAnswerOf(from.Addr(), b) && request.Type != pion.BindingSuccess {
				t.Errorf("%x is held to be an answer", b)
			}
			if !sockets.exists(a.From) || a.To.Addr() != from.Addr() || len(a.Message) > 128 {
				t.Errorf("answered %d bytes from %v to %v", len(a.Message), a.From, a.To)
			}
		}
	})
}
