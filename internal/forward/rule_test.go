package forward

import (
	"strings"
	"testing"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

var (
	fake   = path.KindsOf(path.DirectFakeTCP)
	fakes  = path.KindsOf(path.DirectFakeTCP, path.RelayFakeTCP)
	direct = path.KindsOf(path.DirectUDP, path.DirectFakeTCP)
)

// sentUnder is the rules of the bursts and Opens that left since it was asked
// last, each run of one rule once.
func (l *line) sentUnder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var words []string
	for _, only := range l.only {
		word := "[" + only.String() + "]"
		if len(words) == 0 || words[len(words)-1] != word {
			words = append(words, word)
		}
	}
	l.only = nil
	return strings.Join(words, " ")
}

func (p *pair) dialOver(only path.Kinds) *Dial {
	p.t.Helper()
	d, err := p.laptop.Listen("wg", addr(dialAddr), only)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

// S0-25
func TestBothEndsObeyTheRulesOfBoth(t *testing.T) {
	for name, c := range map[string]struct {
		service     string
		dial        path.Kinds
		there, back string
	}{
		"no rule":    {"", 0, "[]", "[]"},
		"dialed":     {"", fake, "[direct-faketcp]", "[direct-faketcp]"},
		"exposed":    {"?paths=direct-faketcp", 0, "[] [direct-faketcp]", "[direct-faketcp]"},
		"both":       {"?paths=direct-faketcp,relay-faketcp", direct, "[direct-udp+direct-faketcp] [direct-faketcp]", "[direct-faketcp]"},
		"both alike": {"?paths=direct-faketcp+relay-faketcp", fakes, "[direct-faketcp+relay-faketcp]", "[direct-faketcp+relay-faketcp]"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.expose("wg", "udp://"+serviceAddr+c.service)
				service := listen(t, p.homeNet, serviceAddr, true)
				p.dialOver(c.dial)
				client := listen(t, p.laptopNet, "127.0.0.1:0", false)
				for _, word := range []string{"one", "two", "three"} {
					client.send(addr(dialAddr), word)
					settle()
				}
				service.want("one", "two", "three")
				client.want("echo one", "echo two", "echo three")
				if there, back := p.toHome.sentUnder(), p.toLaptop.sentUnder(); there != c.there || back != c.back {
					t.Errorf("there %s, back %s; want %s and %s", there, back, c.there, c.back)
				}
				// The dial has learned the service's rule: the next flow obeys at once.
				other := listen(t, p.laptopNet, "127.0.0.1:0", false)
				other.send(addr(dialAddr), "other")
				settle()
				if there := p.toHome.sentUnder(); !strings.HasSuffix(c.there, there) {
					t.Errorf("a second flow began under %s", there)
				}
				status := p.laptop.Dials()[0]
				if status.Only != c.dial || "["+status.Rule.String()+"]" != c.back {
					t.Errorf("status: %+v", status)
				}
			})
		})
	}
}

// S0-25
func TestRulesWithNothingInCommonAreRefused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.expose("wg", "udp://"+serviceAddr+"?paths=relay-tls")
		p.dialOver(fake)
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
		settle()
		if d := p.laptop.Dials()[0]; !strings.Contains(d.Error, "relay-tls") || !strings.Contains(d.Error, "direct-faketcp") {
			t.Errorf("dial: %+v", d)
		}
		if p.home.Len() != 0 {
			t.Error("the flow lives")
		}
	})
}

func TestKindsOfALaterVersionAreNoLicence(t *testing.T) {
	if only, err := ruleOf([]string{"direct-sctp", "direct-faketcp"}); only != fake || err != nil {
		t.Errorf("one known kind of two: %q, %v", only, err)
	}
	if only, err := ruleOf([]string{"direct-sctp"}); err == nil {
		t.Errorf("no known kind: %q", only)
	}
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.dial("wg")
		p.toHome.losing(func(f *proto.Frame) bool { return true })
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
		settle()
		p.laptop.Frame(&proto.Frame{Body: &proto.Frame_Opened{Opened: &proto.Opened{Flow: 1, Instance: 11, Paths: []string{"direct-sctp"}}}})
		if d := p.laptop.Dials()[0]; !strings.Contains(d.Error, "not known here") {
			t.Errorf("dial: %+v", d)
		}
	})
}

// S0-25: a raw flow has a 5-tuple of its own only where its rule allows UDP.
func TestRawFlowUnderARuleWithoutUDPStaysSealed(t *testing.T) {
	for paths, raw := range map[string]bool{"direct-faketcp+relay-faketcp": false, "direct-udp+direct-faketcp": true, "relay-udp": true} {
		bubble.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.expose("wg", "udp://"+serviceAddr+"?raw&paths="+paths)
			p.dial("wg")
			listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
			settle()
			if got := len(p.toHome.raws) == 1; got != raw || p.home.IsRaw(1, 11) != raw || p.laptop.IsRaw(1, 11) != raw {
				t.Errorf("%s: raw is %v", paths, got)
			}
		})
	}
}
