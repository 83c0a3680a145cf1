package stun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"
)

var start = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// bare is a request of 20 bytes and the given attributes.
func bare(attrs ...pion.RawAttribute) []byte {
	m := newMessage(pion.BindingRequest, transaction{1, 2, 3})
	for _, a := range attrs {
		m.Add(a.Type, a.Value)
	}
	return m.Raw
}

func attr(t pion.AttrType, value ...byte) pion.RawAttribute {
	return pion.RawAttribute{Type: t, Value: value}
}

// TestChangeRequest asks each socket with every combination of flags.
func TestChangeRequest(t *testing.T) {
	none := Sockets{{ap("203.0.113.10:443")}}
	twoAddrs := Sockets{{ap("203.0.113.10:443")}, {ap("203.0.113.11:443")}}
	for _, c := range []struct {
		name                 string
		sockets              Sockets
		changeIP, changePort bool // can be honoured
		announces            bool // OTHER-ADDRESS
	}{
		{"two addresses and two ports", fourSockets(), true, true, true},
		{"one address and two ports", twoPorts(), false, true, false},
		{"one address and one port", none, false, false, false},
		{"two addresses and one port", twoAddrs, true, false, false},
	} {
		for a := range c.sockets {
			for p, own := range c.sockets[a] {
				for flags := range uint32(4) {
					if !own.IsValid() {
						continue
					}
					in := Socket{uint8(a), uint8(p)}
					ip, port := flags&1 != 0, flags&2 != 0
					t.Run(fmt.Sprintf("%s/%v/ip=%v,port=%v", c.name, in, ip, port), func(t *testing.T) {
						possible := (!ip || c.changeIP) && (!port || c.changePort)
						checkChange(t, c.sockets, in, ip, port, possible, c.announces)
					})
				}
			}
		}
	}
}

func checkChange(t *testing.T, sockets Sockets, in Socket, ip, port, possible, announces bool) {
	from := ap("198.51.100.2:40000")
	var flags uint32
	out := in
	if ip {
		flags |= flagChangeIP
		out.Address ^= 1
	}
	if port {
		flags |= flagChangePort
		out.Port ^= 1
	}
	request := bindingRequest(transaction{7}, flags)
	a, ok := NewResponder(sockets).Answer(start, in, from, request)
	if !ok || a.To != from || len(a.Message) > len(request) {
		t.Fatalf("answer %+v, %v; want one to %v of %d bytes or less", a, ok, from, len(request))
	}
	m, err := parse(a.Message)
	if err != nil || m.TransactionID != (transaction{7}) {
		t.Fatal(m, err)
	}
	o, ok := decode(m, sockets.at(a.From))
	if !ok {
		t.Fatal("the answer can't be decoded")
	}
	if !possible {
		if code(o) != 420 || a.From != in {
			t.Errorf("answered %+v from %v; want 420 from %v", o, a.From, in)
		}
		return
	}
	want := Result{Mapped: from, Origin: sockets.at(out), From: sockets.at(out)}
	other := Socket{in.Address ^ 1, in.Port ^ 1}
	if announces && in.Address == 0 {
		want.Other = sockets.at(other)
	} else if s := (Socket{in.Address, in.Port ^ 1}); sockets.exists(s) {
		want.OtherPort = sockets.at(s).Port()
	}
	if a.From != out || o.err != nil || o.result != want {
		t.Errorf("answered %+v from %v\nwant %+v from %v", o, a.From, want, out)
	}
}

// code is an error answer's, 0 for another outcome.
func code(o outcome) int {
	var refused *ErrorAnswer
	if errors.As(o.err, &refused) {
		return refused.Code
	}
	return 0
}

func TestResponderIPv6(t *testing.T) {
	sockets := Sockets{
		{ap("[2001:db8::1]:443"), ap("[2001:db8::1]:3478")},
		{ap("[2001:db8::2]:443"), ap("[2001:db8::2]:3478")},
	}
	from := netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1::2%eth0"), 40000)
	request := bindingRequest(transaction{1}, 0)
	a, ok := NewResponder(sockets).Answer(start, Socket{}, from, request)
	if !ok || len(a.Message) > len(request) {
		t.Fatalf("answered %v with %d bytes to %d", ok, len(a.Message), len(request))
	}
	m, err := parse(a.Message)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := decode(m, sockets[0][0])
	if o.result.Mapped != ap("[2001:db8:1::2]:40000") || o.result.Other != sockets[1][1] {
		t.Errorf("%+v", o)
	}
}

func TestUnannouncedSocket(t *testing.T) {
	r := NewResponder(Sockets{{ap("0.0.0.0:443"), ap("0.0.0.0:3478")}})
	a, ok := r.Answer(start, Socket{}, ap("198.51.100.2:40000"), bindingRequest(transaction{1}, flagChangePort))
	if !ok || a.From != (Socket{Port: 1}) {
		t.Fatal(a, ok)
	}
	m, _ := parse(a.Message)
	o, ok := decode(m, ap("203.0.113.10:3478"))
	if !ok || o.result.Origin.IsValid() || o.result.OtherPort != 3478 {
		t.Errorf("%+v", o)
	}
}

func TestResponsePort(t *testing.T) {
	from := ap("198.51.100.2:40000")
	port := func(p uint16, pad ...byte) pion.RawAttribute {
		return attr(pion.AttrResponsePort, append(binary.BigEndian.AppendUint16(nil, p), pad...)...)
	}
	for _, c := range []struct {
		name  string
		attrs []pion.RawAttribute
		to    string
		code  int
	}{
		{"a port", []pion.RawAttribute{port(40001)}, "198.51.100.2:40001", 0},
		{"length with padding", []pion.RawAttribute{port(40001, 0, 0)}, "198.51.100.2:40001", 0},
		{"port 0", []pion.RawAttribute{port(0)}, "", 400},
		{"a system service's", []pion.RawAttribute{port(53)}, "", 400},
		{"empty", []pion.RawAttribute{attr(pion.AttrResponsePort)}, "", 400},
		{"with PADDING", []pion.RawAttribute{port(40001), attr(pion.AttrPadding, 1, 2, 3)}, "", 400},
		{"with an unknown", []pion.RawAttribute{port(40001), attr(0x7777)}, "", 420},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, ok := NewResponder(fourSockets()).Answer(start, Socket{}, from, bare(c.attrs...))
			if !ok {
				t.Fatal("no answer")
			}
			m, _ := parse(a.Message)
			o, _ := decode(m, fourSockets()[0][0])
			if c.code == 0 && (a.To != ap(c.to) || o.err != nil || o.result.Mapped != from) {
				t.Errorf("answered %+v to %v", o, a.To)
			}
			if c.code != 0 && (code(o) != c.code || a.To != from) {
				t.Errorf("answered %+v to %v; want %d", o, a.To, c.code)
			}
		})
	}
}

func TestPaddingIsIgnored(t *testing.T) {
	request := bare(attr(pion.AttrPadding, make([]byte, 1500)...))
	a, ok := NewResponder(fourSockets()).Answer(start, Socket{}, ap("198.51.100.2:40000"), request)
	if !ok || len(a.Message) > 100 {
		t.Errorf("answered %v with %d bytes", ok, len(a.Message))
	}
}

func TestUnknownAttributes(t *testing.T) {
	attrs := []pion.RawAttribute{attr(0x8777), attr(0x7777, 1), attr(0x7777, 2), attr(0x0024)}
	for i := range 30 {
		attrs = append(attrs, attr(pion.AttrType(0x6000+i)))
	}
	a, ok := NewResponder(fourSockets()).Answer(start, Socket{}, ap("198.51.100.2:40000"), bare(attrs...))
	if !ok {
		t.Fatal("no answer")
	}
	m, err := parse(a.Message)
	if err != nil {
		t.Fatal(err)
	}
	var unknown pion.UnknownAttributes
	if err := unknown.GetFrom(m); err != nil || len(unknown) != maxUnknown || unknown[0] != 0x7777 || unknown[1] != 0x0024 ||
		slices.Contains(unknown, 0x8777) {
		t.Errorf("unknown %v, %v", unknown, err)
	}
}

func TestFingerprintIsAnswered(t *testing.T) {
	m := newMessage(pion.BindingRequest, transaction{1})
	must(pion.Fingerprint.AddTo(m))
	a, ok := NewResponder(fourSockets()).Answer(start, Socket{}, ap("198.51.100.2:40000"), m.Raw)
	if !ok {
		t.Fatal("no answer")
	}
	answer, err := parse(a.Message) // which checks it
	if err != nil || !answer.Contains(pion.AttrFingerprint) {
		t.Error(answer, err)
	}
}

func TestResponderIsSilent(t *testing.T) {
	good := bindingRequest(transaction{1}, 0)
	indication := newMessage(pion.NewType(pion.MethodBinding, pion.ClassIndication), transaction{1}).Raw
	allocate := newMessage(pion.NewType(pion.MethodAllocate, pion.ClassRequest), transaction{1}).Raw
	success := newMessage(pion.BindingSuccess, transaction{1}).Raw
	wrong := bare(attr(pion.AttrFingerprint, 1, 2, 3, 4))
	from := ap("198.51.100.2:40000")
	r := NewResponder(fourSockets())
	for _, c := range []struct {
		name string
		from netip.AddrPort
		b    []byte
		want ResponderStats
	}{
		{"empty", from, nil, ResponderStats{Malformed: 1}},
		{"cut", from, good[:30], ResponderStats{Malformed: 1}},
		{"wrong fingerprint", from, wrong, ResponderStats{Malformed: 1}},
		{"no source", netip.AddrPort{}, good, ResponderStats{Malformed: 1}},
		{"source port 0", ap("198.51.100.2:0"), good, ResponderStats{Malformed: 1}},
		{"multicast source", ap("224.0.0.1:40000"), good, ResponderStats{Malformed: 1}},
		{"unspecified source", ap("0.0.0.0:40000"), good, ResponderStats{Malformed: 1}},
		{"indication", from, indication, ResponderStats{Other: 1}},
		{"another method", from, allocate, ResponderStats{Other: 1}},
		{"an answer", from, success, ResponderStats{Other: 1}},
	} {
		before := r.Stats()
		a, ok := r.Answer(start, Socket{}, c.from, c.b)
		after := r.Stats()
		got := ResponderStats{Malformed: after.Malformed - before.Malformed, Other: after.Other - before.Other}
		if ok || got != c.want || after.Answered+after.Refused+after.Limited != 0 {
			t.Errorf("%s: answered %v with %+v; counted %+v", c.name, ok, a, got)
		}
	}
}

func TestRateLimit(t *testing.T) {
	r := NewResponder(fourSockets())
	victim, other := ap("198.51.100.2:40000"), ap("198.51.100.3:40000")
	ask := func(now time.Time, from netip.AddrPort, b []byte) bool {
		_, ok := r.Answer(now, Socket{}, from, b)
		return ok
	}
	count := func(now time.Time, n int, b []byte) (answered int) {
		for i := range n {
			if ask(now, netip.AddrPortFrom(victim.Addr(), uint16(1024+i)), b) { // a forged port is no other source
				answered++
			}
		}
		return answered
	}
	if n := count(start, 1000, bare()); n != largerAnswers.Burst {
		t.Errorf("%d bare requests at once were answered, want %d", n, largerAnswers.Burst)
	}
	if n := count(start.Add(time.Second), 1000, bare()); n != 10 {
		t.Errorf("a second later %d, want 10", n)
	}
	if !ask(start, other, bare()) {
		t.Error("another source was limited too")
	}
	if n := count(start, 1000, bindingRequest(transaction{1}, flagChangeIP)); n != 1000 {
		t.Errorf("of 1000 requests as large as their answers %d were answered", n)
	}
	large := bare(attr(pion.AttrResponsePort, 0x90, 0), attr(attrFill, make([]byte, 64)...))
	if n := count(start.Add(time.Second), 100, large); n != 0 {
		t.Errorf("%d answers went to a port that didn't ask, beyond the limit", n)
	}
	if n := count(start.Add(-time.Hour), 1, bare()); n != 1 {
		t.Error("a clock that was set back silences the responder")
	}
	if s := r.Stats(); s.Limited == 0 {
		t.Errorf("%+v", s)
	}
}
