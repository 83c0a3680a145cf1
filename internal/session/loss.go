package session

import "time"

// lossMeter measures the share of our datagrams on one path that the peer did
// not open, between answers to probes; each probe notes what was sent there
// before it, and each answer tells what had come from there by then.
type lossMeter struct {
	tx, received uint64
	since        time.Time // of tx and received, zero without any
	loss         float64
	rate         float64 // datagrams a second
	high         int     // measurements in a row that found more than the threshold
}

// lossBase is how many datagrams a measurement needs: of 50, two in a row seem
// to have lost 5 % where 1 % is lost once in 5000 times.
const lossBase = 50

// heldBackMost is how many datagrams a second a network that holds a kind of
// path back is expected to let pass, 240 Mbit/s or so. What is lost beyond is
// more than the hosts or the link can carry, over whatever path, and a trial of
// some hundred probes would not show that of another one.
const heldBackMost = 20_000

func (m *lossMeter) answered(now time.Time, tx, received uint64, threshold float64) {
	sent := tx - m.tx
	switch {
	case m.since.IsZero() || tx < m.tx || received < m.received:
	case sent < lossBase:
		return
	default:
		m.loss = max(0, 1-float64(received-m.received)/float64(sent))
		m.rate = float64(sent) / max(now.Sub(m.since).Seconds(), 1e-3)
		if m.high++; m.loss < threshold || m.rate*(1-m.loss) > heldBackMost {
			m.high = 0
		}
	}
	m.tx, m.received, m.since = tx, received, now
}

// pause forgets where a measurement began: data takes two paths, so that what
// came says nothing about one of them. Earlier measurements stay: a path that
// loses much is in doubt again and again.
func (m *lossMeter) pause() { m.since = time.Time{} }
