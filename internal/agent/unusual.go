package agent

import (
	"math/rand/v2"
	"slices"
)

// lessKnown are ports that firewalls pass for programs other than browsers:
// mail, DNS and HTTP beside their main ports, VPNs, chat, remote desktops. A
// coordinator whose every port leads to it (`rendezvous stripe`) is behind them
// too. SSH's is not among them: it never leads there.
var lessKnown = [...]uint16{993, 8080, 1194, 995, 5222, 51820, 587, 853, 465, 3389, 143, 110, 1701, 21}

// bands are parts of the port range that a rule may pass alone: those above
// 1023, those where some system takes ephemeral ports from, the top.
var bands = [...][2]int{{1024, 9999}, {10000, 19999}, {20000, 32767}, {32768, 49151}, {49152, 60999}, {61000, 65535}}

// A search for unusual ports takes some sweeps, about three minutes, and is
// repeated in two sweeps of twenty, every ten minutes.
const (
	searchSweeps = 9
	searchAgain  = 20
)

// unusual are ports that a sweep tries beside the well-known ones, once these
// have been in vain: half of lessKnown by turns, and one of each band by chance.
// None in the first sweep: a coordinator that restarts needs no search.
func unusual(sweep int) (ports []uint16) {
	if sweep < 2 || sweep > searchSweeps && sweep%searchAgain > 1 {
		return nil
	}
	const half = len(lessKnown) / 2
	ports = slices.Clone(lessKnown[sweep%2*half:][:half])
	for _, b := range bands {
		ports = append(ports, uint16(b[0]+rand.IntN(b[1]-b[0]+1)))
	}
	return ports
}

// LikelyPorts are those that a coordinator may be behind, likely ones first.
func LikelyPorts() []uint16 {
	return slices.Concat(wellKnown[:], unusual(2), unusual(3))
}
