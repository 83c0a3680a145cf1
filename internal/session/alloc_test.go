//go:build !race

package session

import (
	"testing"

	"rendezvous/internal/path"
)

// The race detector makes sync.Pool forget at random, so this is for builds
// without it.
func TestNoAllocationPerDatagram(t *testing.T) {
	tx, rx, conn, p := benched(t)
	mem := NewRx()
	burst := burstOf(0, 16, 1400)
	tx.Send(1, burst)
	if n := testing.AllocsPerRun(200, func() {
		tx.Send(1, burst)
		rx.Receive(mem, p, path.DirectUDP, conn.last)
	}); n > 0 {
		t.Errorf("%v allocations a burst", n)
	}
	if got := rx.Counts().RxDatagrams; got != 16*201 {
		t.Errorf("%d datagrams opened, drops %v", got, rx.Counts().Dropped)
	}
}

// S0-25
func TestNoAllocationPerDatagramUnderARule(t *testing.T) {
	tx, rx, conn, p := benched(t)
	mem := NewRx()
	burst := burstOf(0, 16, 1400)
	only := path.KindsOf(path.DirectUDP, path.RelayTLS)
	tx.SendOver(only, 1, burst)
	if n := testing.AllocsPerRun(200, func() {
		tx.SendOver(only, 1, burst)
		rx.Receive(mem, p, path.DirectUDP, conn.last)
	}); n > 0 {
		t.Errorf("%v allocations a burst", n)
	}
}
