package path

import "testing"

// S0-25
func TestKindsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]string{
		"direct-faketcp+relay-faketcp":   "direct-faketcp+relay-faketcp",
		"relay-faketcp,direct-faketcp":   "direct-faketcp+relay-faketcp",
		"relay-tls direct-udp relay-tls": "direct-udp+relay-tls",
		"direct-tcp":                     "direct-tcp",
		AllKinds.String():                "direct-udp+direct-faketcp+direct-tcp+relay-udp+relay-faketcp+relay-tls",
	} {
		got, err := ParseKinds(text)
		if err != nil || got.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, got, err, want)
		}
		if again, err := ParseKinds(got.String()); again != got || err != nil {
			t.Errorf("%q reads as %v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "+", "udp", "direct-udp+carrier-pigeon"} {
		if got, err := ParseKinds(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

func TestRulesOfBothEndsNarrowEachOther(t *testing.T) {
	udp, fake, both := KindsOf(DirectUDP), KindsOf(DirectFakeTCP), KindsOf(DirectUDP, DirectFakeTCP)
	for _, c := range []struct {
		a, b, want Kinds
		ok         bool
	}{{0, 0, 0, true}, {0, udp, udp, true}, {fake, 0, fake, true}, {both, fake, fake, true}, {udp, fake, 0, false}} {
		if got, ok := c.a.Narrow(c.b); got != c.want || ok != c.ok {
			t.Errorf("%q and %q make %q, %v", c.a, c.b, got, ok)
		}
	}
	if !Kinds(0).Allows(RelayTLS) || fake.Allows(DirectUDP) || !fake.Allows(DirectFakeTCP) || KindsOf(None, RelayTLS+1) != 0 {
		t.Error("a rule allows what is in it, and no rule allows all")
	}
}
