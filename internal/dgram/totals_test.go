package dgram

import (
	"net/netip"
	"testing"
)

// What a socket has lost is counted on when it is closed.
func TestTotalsKeepWhatClosedSocketsLost(t *testing.T) {
	for name, opts := range map[string]Options{"fast": {Offload: true}, "portable": {Portable: true}} {
		t.Run(name, func(t *testing.T) {
			network := System(opts)
			conn, err := network.ListenUDP(netip.MustParseAddrPort("127.0.0.1:0"))
			if err != nil {
				t.Fatal(err)
			}
			tooLarge := One(netip.MustParseAddrPort("127.0.0.1:9"), make([]byte, MaxBytes+1))
			if err := conn.Write(tooLarge); err == nil {
				t.Fatal("more was sent than a datagram holds")
			}
			totals := func() uint64 { return network.(Totals).Totals().Reasons()["socket-too-large"] }
			if n := totals(); n != 1 {
				t.Errorf("%d datagrams were too large, want 1", n)
			}
			for range 2 { // closed twice, it counts once
				_ = conn.Close()
			}
			if n := totals(); n != 1 {
				t.Errorf("%d datagrams were too large after the socket was closed, want 1", n)
			}
		})
	}
}
