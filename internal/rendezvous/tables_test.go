package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/proto"
)

const ms = time.Millisecond

func TestFireAfter(t *testing.T) {
	for _, c := range []struct{ rttA, rttB, a, b time.Duration }{
		{0, 0, 0, 0},
		{40 * ms, 40 * ms, 0, 0},
		{20 * ms, 120 * ms, 50 * ms, 0},
		{120 * ms, 20 * ms, 0, 50 * ms},
		{0, 40 * ms, 20 * ms, 0},
		{3, 4, 0, 0},
	} {
		a, b := fireAfter(c.rttA, c.rttB)
		if a != c.a || b != c.b {
			t.Errorf("fireAfter(%v, %v) = %v, %v; want %v, %v", c.rttA, c.rttB, a, b, c.a, c.b)
		}
		// Each message takes half a round trip; then both must fire at once.
		if skew := c.rttA/2 + a - c.rttB/2 - b; skew.Abs() > 1 {
			t.Errorf("with %v and %v they fire %v apart", c.rttA, c.rttB, skew)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		what                  string
		least, smoothed, mean time.Duration
		want                  time.Duration
	}{
		{"nothing measured", 0, 0, 0, 0},
		{"no minimum yet", 0, 30 * ms, 15 * ms, 30 * ms},
		{"a calm path", 40 * ms, 41 * ms, ms, 40 * ms},
		{"queues", 40 * ms, 90 * ms, 30 * ms, 40 * ms},
		{"the path became longer", 20 * ms, 120 * ms, 5 * ms, 120 * ms},
		{"a little longer on a short path", ms, 9 * ms, 0, ms},
	} {
		got := roundTrip(quic.ConnectionStats{MinRTT: c.least, SmoothedRTT: c.smoothed, MeanDeviation: c.mean})
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

func TestMicroseconds(t *testing.T) {
	for d, want := range map[time.Duration]uint32{-1: 0, 0: 0, 1500: 1, ms: 1000, 100 * time.Hour: 3600e6} {
		if got := microseconds(d); got != want {
			t.Errorf("microseconds(%v) = %d, want %d", d, got, want)
		}
	}
}

func TestDoor(t *testing.T) {
	d := newDoor(2)
	from := &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 4000}
	for i := range rateStranger.Burst + 5 {
		if got := d.unproven(from); got != (i >= rateStranger.Burst) {
			t.Errorf("connection %d must prove its address: %v", i, got)
		}
	}
	if d.unproven(&net.UDPAddr{IP: net.IPv4(198, 51, 100, 2), Port: 4000}) {
		t.Error("another source must prove its address")
	}
	if d.enterFor(t, from, true) == nil || d.enterFor(t, from, false) == nil {
		t.Error("the first two were refused")
	}
	if d.enterFor(t, from, true) != nil {
		t.Error("a third connection was let in")
	}
	if d.open != 2 || d.refused != 1 || d.retried != 5 {
		t.Errorf("open %d, refused %d, retried %d", d.open, d.refused, d.retried)
	}
}

func (d *door) enterFor(t *testing.T, from net.Addr, proven bool) context.Context {
	ctx, err := d.enter(t.Context(), &quic.ClientInfo{RemoteAddr: from, AddrVerified: proven})
	if err != nil && !errors.Is(err, errDoor) {
		t.Error(err)
	}
	return ctx
}

func TestIntroductionsTable(t *testing.T) {
	table := newIntroductions(2)
	a, b, c := Key{1}, Key{2}, Key{3}
	first, err := table.begin(noon, a, b, false)
	second, err2 := table.begin(noon.Add(time.Second), a, c, true)
	if err != nil || err2 != nil || first.id == second.id {
		t.Fatalf("%v %v %v %v", first, second, err, err2)
	}
	_, err = table.begin(noon, b, a, false)
	wantCode(t, "one too many", err, proto.Code_CODE_LIMITED)
	for _, wrong := range []struct {
		id uint64
		by Key
	}{{first.id, a}, {first.id, c}, {second.id, b}, {first.id + 7, b}} {
		if _, ok := table.answer(wrong.id, wrong.by, false); ok {
			t.Errorf("%v may answer %d", wrong.by, wrong.id)
		}
	}
	if got, ok := table.answer(second.id, c, false); !ok || got != second {
		t.Errorf("answered %v, %v", got, ok)
	}
	if _, ok := table.answer(second.id, c, false); ok {
		t.Error("answered twice")
	}
	if early := table.expire(noon.Add(answerWithin - 1)); len(early) != 0 {
		t.Errorf("expired early: %v", early)
	}
	if late := table.expire(noon.Add(answerWithin)); len(late) != 1 || late[0] != first {
		t.Errorf("expired %v", late)
	}
	third, err := table.begin(noon, a, b, false)
	if err != nil {
		t.Fatal(err)
	}
	if gone := table.left(a); len(gone) != 0 {
		t.Errorf("who asked left, and %v ended", gone)
	}
	if gone := table.left(b); len(gone) != 1 || gone[0] != third {
		t.Errorf("who was asked left, and %v ended", gone)
	}
	if got, want := table.stats(), (IntroductionCounts{Made: 3, Answered: 1, Expired: 2}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestPresenceLimitsIntroductions(t *testing.T) {
	p := newPresence()
	a, b := Key{1}, Key{2}
	p.arrive(noon, a, attendance{conn: new(agentConn)})
	if p.mayIntroduce(noon, a, b) || p.mayIntroduce(noon, b, a) {
		t.Error("who is not there may be introduced")
	}
	p.arrive(noon, b, attendance{conn: new(agentConn)})
	for range rateAsks.Burst {
		if !p.mayIntroduce(noon, a, b) {
			t.Fatal("limited too early")
		}
	}
	p.arrive(noon, a, attendance{conn: new(agentConn)}) // a new connection brings nothing new
	if p.mayIntroduce(noon, a, b) {
		t.Error("not limited")
	}
	if !p.mayIntroduce(noon, b, a) || !p.mayIntroduce(noon.Add(rateAsks.Every), a, b) {
		t.Error("limited without a reason")
	}
}

func TestPlan(t *testing.T) {
	for _, c := range []struct{ what, listen, public, local, want string }{
		{"everywhere", "", "", "192.0.2.1 2001:db8::1", "0.0.0.0#0= ::#0="},
		{"one address", "192.0.2.1", "", "192.0.2.1", "192.0.2.1#0=192.0.2.1"},
		{"all of IPv4", "0.0.0.0", "", "192.0.2.1", "0.0.0.0#0="},
		{"a public address of our own", "", "192.0.2.1", "192.0.2.1 10.0.0.1", "192.0.2.1#0=192.0.2.1 ::#0="},
		{"two of them", "", "192.0.2.1 192.0.2.2", "192.0.2.1 192.0.2.2", "192.0.2.1#0=192.0.2.1 192.0.2.2#1=192.0.2.2 ::#0="},
		{"of both families", "", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1", "192.0.2.1#0=192.0.2.1 2001:db8::1#0=2001:db8::1"},
		{"behind a NAT", "", "192.0.2.1", "10.0.0.1", "0.0.0.0#0=192.0.2.1 ::#0="},
		{"behind a NAT, on one address", "10.0.0.1", "192.0.2.1", "10.0.0.1", "10.0.0.1#0=192.0.2.1"},
		{"on one of two", "192.0.2.2", "192.0.2.1 192.0.2.2", "192.0.2.1 192.0.2.2", "192.0.2.1#0=192.0.2.1 192.0.2.2#1=192.0.2.2"},
		{"one of two is ours", "", "192.0.2.9 192.0.2.2", "192.0.2.2", "192.0.2.2#0=192.0.2.2 ::#0="},
	} {
		var listen netip.Addr
		if c.listen != "" {
			listen = netip.MustParseAddr(c.listen)
		}
		var got []string
		for _, p := range plan(listen, addrs(c.public), addrs(c.local)) {
			public := ""
			if p.public.IsValid() {
				public = p.public.String()
			}
			got = append(got, fmt.Sprintf("%v#%d=%s", p.addr, p.index, public))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.what, got, c.want)
		}
	}
}

func addrs(s string) (out []netip.Addr) {
	for f := range strings.FieldsSeq(s) {
		out = append(out, netip.MustParseAddr(f))
	}
	return out
}

func TestConfigCheck(t *testing.T) {
	registry := openTest(t)
	good := func() *Config { return &Config{Network: localNetwork(), Registry: registry} }
	if err := good().Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		"a network":      func(c *Config) { c.Network = nil },
		"not 1 to 65535": func(c *Config) { c.Alternate = 70000 },
		"is the main":    func(c *Config) { c.Listen, c.Alternate = netip.MustParseAddrPort("0.0.0.0:3478"), 3478 },
		"be a public":    func(c *Config) { c.Public = addrs("0.0.0.0") },
		"third public":   func(c *Config) { c.Public = addrs("192.0.2.1 192.0.2.2 192.0.2.3") },
	} {
		c := good()
		change(c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gave %v", want, err)
		}
	}
}

func TestCloseReason(t *testing.T) {
	if err := closeReason(&quic.ApplicationError{Remote: true, ErrorCode: closeStopping}); !errors.Is(err, ErrStopping) {
		t.Errorf("stopping: %v", err)
	}
	if err := closeReason(&quic.StatelessResetError{}); !errors.Is(err, ErrRestarted) {
		t.Errorf("reset: %v", err)
	}
	wantCode(t, "replaced", closeReason(&quic.ApplicationError{Remote: true, ErrorCode: closeCode + 14, ErrorMessage: "x"}), proto.Code_CODE_REPLACED)
	for _, err := range []error{
		&quic.ApplicationError{Remote: true, ErrorCode: closeSlow, ErrorMessage: "the agent does not read"},
		&quic.ApplicationError{Remote: false, ErrorCode: closeDone},
		&quic.IdleTimeoutError{}, net.ErrClosed, &quic.ApplicationError{Remote: true, ErrorCode: 0x9999},
	} {
		if got := closeReason(err); got == nil || errors.Is(got, ErrStopping) {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestWayText(t *testing.T) {
	w := way{netip.MustParseAddrPort("0.0.0.0:443"), netip.MustParseAddrPort("[2001:db8::1]:5000")}
	if got, err := parseWay(w.String()); err != nil || got != w {
		t.Errorf("%v became %v, %v", w, got, err)
	}
	for _, s := range []string{"", "a b", "0.0.0.0:443", "0.0.0.0:443 x"} {
		if _, err := parseWay(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}
