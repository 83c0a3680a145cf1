package natlab

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

func TestCountersAndFirst(t *testing.T) {
	inBubble(t, Options{Records: 3}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Home())
		watched := 0
		l.Watch(func(Record) { watched++ })
		start := time.Now()
		seen(t, b.inside, b.s11)
		time.Sleep(time.Second)
		probe := proto.AppendProbeHeader(nil, proto.ProbeHeader{})
		if err := b.inside.Write(dgram.One(b.s21.LocalAddr(), probe)); err != nil {
			t.Fatal(err)
		}
		if err := b.inside.Write(dgram.One(b.s11.LocalAddr(), probe)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)

		for addr, want := range map[string]int{"203.0.113.10": 2, "203.0.113.20": 1, "192.0.2.1": 0} {
			if got := l.SentTo(netip.MustParseAddr(addr)); got != want {
				t.Errorf("sent %d to %s, want %d", got, addr, want)
			}
		}
		if got := l.SentToPort(netip.MustParseAddrPort("203.0.113.10:2000")); got != 0 {
			t.Errorf("sent %d to a port that nobody sent to", got)
		}
		if got := l.Targets(); len(got) != 2 || got[b.s11.LocalAddr()] != 2 {
			t.Errorf("targets are %v", got)
		}
		at, ok := l.First(Sent, "home", proto.KindProbe)
		if want := start.Add(1010200 * time.Microsecond); !ok || !at.Equal(want) {
			t.Errorf("the first probe left at %v, want %v", at, want)
		}
		at, ok = l.First(Delivered, "second", proto.KindProbe)
		if want := start.Add(1020400 * time.Microsecond); !ok || !at.Equal(want) {
			t.Errorf("the first probe arrived at %v, want %v", at, want)
		}
		if _, ok = l.First(Delivered, "home", proto.KindProbe); ok {
			t.Error("a probe came back")
		}
		if got := l.Count(Sent, "home"); got != 3 || watched != 9 {
			t.Errorf("home sent %d, %d events were watched", got, watched)
		}
		if got := l.Records(); len(got) != 3 || got[0].At.After(got[2].At) || got[2].Event != Delivered {
			t.Errorf("the last three records are %+v", got)
		}
	})
}

func TestDiagram(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10", Delay(20*time.Millisecond))
		carrier := l.NAT("carrier", "198.51.100.1", Home(), Delay(5*time.Millisecond))
		home := carrier.NAT("router", "100.64.0.2", Home()).Host("home", "192.168.1.2")
		h, v := listen(t, home, "0.0.0.0:4000"), listen(t, vps, "0.0.0.0:443")
		if err := h.(dgram.TTLWriter).WriteTTL(dgram.One(netip.MustParseAddrPort("203.0.113.10:443"), proto.Prime()), 4); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := h.Write(numbered(netip.MustParseAddrPort("203.0.113.10:443"), 1<<31|0xf, 3, 100)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		send(t, v, "198.51.100.1:4001", "\x81")
		time.Sleep(time.Second)
		want := `
              vps           carrier       router        home          
    0.000200  |             |             |<------------| prime 1B 192.168.1.2:4000>203.0.113.10:443 as 100.64.0.2:4000>same ttl 3
    0.000400  |             |<------------|             | prime 1B 100.64.0.2:4000>203.0.113.10:443 as 198.51.100.1:4000>same ttl 2
    0.005400  |             x             |             | prime 1B 198.51.100.1:4000>203.0.113.10:443 DROPPED at internet: ttl expired ttl 2
    1.000200  |             |             |<------------| other x3 300B 192.168.1.2:4000>203.0.113.10:443 as 100.64.0.2:4000>same
    1.000400  |             |<------------|             | other x3 300B 100.64.0.2:4000>203.0.113.10:443 as 198.51.100.1:4000>same
    1.025400  |<------------|             |             | other x3 300B 198.51.100.1:4000>203.0.113.10:443
    2.025000  |------------x|             |             | probe 1B 203.0.113.10:443>198.51.100.1:4001 DROPPED at carrier: filtered
`
		if got := trimLines(l.Diagram()); got != trimLines(want[1:]) {
			t.Errorf("the diagram is\n%s", got)
		}
	})
}

// trimLines takes the spaces off the ends of lines.
func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// failing stands in for a test that fails: it keeps what is logged and what is
// to be cleaned up.
type failing struct {
	testing.TB
	log     strings.Builder
	cleanup func()
}

// Fatalf ends the goroutine, as a test's does.
func (f *failing) Fatalf(s string, args ...any) {
	f.Logf(s, args...)
	runtime.Goexit()
}

func (f *failing) Helper()                    {}
func (f *failing) Failed() bool               { return true }
func (f *failing) Cleanup(c func())           { f.cleanup = c }
func (f *failing) Logf(s string, args ...any) { fmt.Fprintf(&f.log, s, args...) }

func TestAFailureDrawsItself(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := &failing{TB: t}
		l := New(f, Options{Seed: 77})
		c := listen(t, l.Host("lonely", "203.0.113.1"), "0.0.0.0:0")
		send(t, c, "203.0.113.2:1", "into the void")
		time.Sleep(time.Second)
		f.cleanup()
		for _, want := range []string{"seed 77", "lonely", "DROPPED at internet: no route"} {
			if !strings.Contains(f.log.String(), want) {
				t.Errorf("what a failure prints lacks %q:\n%s", want, f.log.String())
			}
		}
	})
}

// What a test got wrong about the lab is said at once.
func TestMisuseEndsTheTest(t *testing.T) {
	for want, misuse := range map[string]func(l *Lab){
		`the name "a" is empty or taken`:       func(l *Lab) { l.NAT("a", "203.0.113.9", Home()) },
		"a has address 203.0.113.1 already":    func(l *Lab) { l.Host("b", "203.0.113.1") },
		"address of b":                         func(l *Lab) { l.Host("b", "203.0.113.1.1") },
		"prefix of b":                          func(l *Lab) { l.NAT("b", "203.0.113.2", Home(), Prefix("2001:db8::")) },
		"address of b: ParseAddr(\"docker0\")": func(l *Lab) { l.Host("b", "203.0.113.2", Interface("172.17.0.1", "docker0")) },
	} {
		bubble.Test(t, func(t *testing.T) {
			f := &failing{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				l := New(f, Options{})
				l.Host("a", "203.0.113.1")
				misuse(l)
			}()
			<-done
			f.cleanup()
			if !strings.Contains(f.log.String(), want) {
				t.Errorf("said %q, want %q", f.log.String(), want)
			}
		})
	}
}

// The same seed gives the same fate to each datagram, another seed another.
func TestSeedsRepeat(t *testing.T) {
	run := func(seed uint64) (out string) {
		inBubble(t, Options{Seed: seed}, func(t *testing.T, l *Lab) {
			nat := l.NAT("cellular", "198.51.100.1", Cellular(), Loss(0.3), Jitter(3*time.Millisecond))
			c := listen(t, nat.Host("phone", "10.0.0.2"), "0.0.0.0:0")
			listen(t, l.Host("server", "203.0.113.2"), "0.0.0.0:1000")
			for range 50 {
				send(t, c, "203.0.113.2:1000", "x")
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Second)
			out = l.Diagram()
		})
		return out
	}
	first, again, other := run(5), run(5), run(6)
	if first != again {
		t.Error("the same seed gave two fates")
	}
	if first == other {
		t.Error("another seed gave the same fate")
	}
}
