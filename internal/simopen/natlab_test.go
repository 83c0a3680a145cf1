package simopen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// S4-02, S4-08: the same through the NATs of the lab in memory, with handshakes
// that can lose segments on the way. Nothing there is ever late by chance: two
// sides of one rhythm would miss each other for ever if each refusal were
// answered at once.
func TestPunchThroughNATs(t *testing.T) {
	for name, c := range map[string]struct {
		home, laptop natlab.Behaviour
		loss         float64
	}{
		"drop":                 {natlab.Home(), natlab.Home(), 0},
		"RST":                  {natlab.Poisonable(), natlab.Poisonable(), 0},
		"drop and RST":         {natlab.Home(), natlab.Poisonable(), 0},
		"RST forgets":          {resetForgets(natlab.Poisonable()), resetForgets(natlab.Poisonable()), 0},
		"drop, a tenth lost":   {natlab.Home(), natlab.Home(), 0.1},
		"RST, a tenth is lost": {natlab.Poisonable(), natlab.Poisonable(), 0.1},
	} {
		for _, skew := range []time.Duration{-300, -100, -20, 0, 20, 100, 300} {
			t.Run(fmt.Sprintf("%s/skew=%dms", name, skew), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					lab := natlab.New(t, natlab.Options{})
					hosts := [2]*natlab.Host{
						lab.NAT("homerouter", "198.51.100.1", c.home, natlab.Delay(10*time.Millisecond), natlab.Loss(c.loss)).Host("home", "192.168.1.2"),
						lab.NAT("laptoprouter", "198.51.100.129", c.laptop, natlab.Delay(10*time.Millisecond)).Host("laptop", "192.168.2.2"),
					}
					targets := [2]string{"198.51.100.129:30002", "198.51.100.1:30001"}
					fire := time.Now().Add(time.Second)
					var rungs [2]*Rung
					var members [2]*member
					for i, h := range hosts {
						at := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(30001+i))
						l, err := h.ListenTCP(at)
						if err != nil {
							t.Fatal(err)
						}
						members[i] = newMember("s")
						t.Cleanup(members[i].close)
						rungs[i] = &Rung{Net: h, Local: []netip.AddrPort{at}, Listeners: []net.Listener{l},
							Candidates: []netip.AddrPort{netip.MustParseAddrPort(targets[i])},
							FireAt:     fire.Add(time.Duration(i) * skew * time.Millisecond), RTT: 40 * time.Millisecond,
							Attach: members[i].attach, Release: members[i].release}
					}
					errs, took := climbBoth(t, rungs, members)
					if err := errors.Join(errs[0], errs[1]); err != nil {
						t.Fatal(err)
					}
					if len(members[0].proven()) == 0 || len(members[1].proven()) == 0 {
						t.Error("closed under the other's hands")
					}
					if took > time.Second && c.loss == 0 {
						t.Errorf("took %v", took)
					}
				})
			})
		}
	}
}

// resetForgets is S4-09's NAT, that deletes a mapping at a RST.
func resetForgets(b natlab.Behaviour) natlab.Behaviour {
	b.ResetForgets = true
	return b
}
