package seal

import (
	"net/netip"
	"testing"

	"rendezvous/proto"
)

// S3-12
func TestBindMACCoversEverything(t *testing.T) {
	key := counting(1, 32)
	b := proto.Bind{Bound: true, Allocation: proto.Token{1, 2, 3}, Leg: 1, Counter: 9, Both: true,
		Observed: netip.MustParseAddrPort("[2001:db8::7]:4000")}
	b.MAC = BindMAC(key, b)
	if !CheckBind(key, b) {
		t.Fatal("the own MAC is refused")
	}
	if CheckBind(counting(2, 32), b) || CheckBind(nil, b) {
		t.Error("another key passes")
	}
	for name, change := range map[string]func(*proto.Bind){
		"kind":       func(b *proto.Bind) { b.Bound = false },
		"allocation": func(b *proto.Bind) { b.Allocation[7] = 1 },
		"leg":        func(b *proto.Bind) { b.Leg = 0 },
		"counter":    func(b *proto.Bind) { b.Counter++ },
		"both":       func(b *proto.Bind) { b.Both = false },
		"gone":       func(b *proto.Bind) { b.Gone = true },
		"address":    func(b *proto.Bind) { b.Observed = netip.MustParseAddrPort("[2001:db8::8]:4000") },
		"port":       func(b *proto.Bind) { b.Observed = netip.MustParseAddrPort("[2001:db8::7]:4001") },
		"mac":        func(b *proto.Bind) { b.MAC[15] ^= 1 },
	} {
		changed := b
		change(&changed)
		if CheckBind(key, changed) {
			t.Errorf("%s changed, and the MAC still fits", name)
		}
	}
	wire := proto.AppendBind(nil, b)
	for i := range wire {
		for bit := range 8 {
			wire[i] ^= 1 << bit
			if got, err := proto.ParseBind(wire); err == nil && CheckBind(key, got) {
				t.Errorf("byte %d bit %d changed, and the MAC still fits", i, bit)
			}
			wire[i] ^= 1 << bit
		}
	}
}
