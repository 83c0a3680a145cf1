package faketcp

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"rendezvous/internal/path"
)

// Verdict is what a check found out about the boxes on the way.
type Verdict struct {
	// SplitTCP: a box ends the TCP connection and begins another, as
	// performance enhancing proxies do. It waits for what is missing, so
	// datagrams stall: such a path is of use to real TCP only.
	SplitTCP bool
	// Coalesced: segments are merged or cut anew on the way, so datagrams lose
	// their boundaries.
	Coalesced bool
	// SeqRewritten: a box shifts sequence numbers, each flow's by a constant.
	SeqRewritten bool
	// WindowClamped: a box rewrites the window.
	WindowClamped bool
	// OptionsStripped: a box takes away or rewrites options of the SYN other
	// than the MSS. Without window scaling, each connection tracker on the way
	// drops what exceeds 64 KiB in a round trip.
	OptionsStripped bool
	// Packed: the fields that packed mode uses arrive as they left, both ways.
	Packed bool
	// MSS is the smaller one of those that either side saw in the other's SYN,
	// and MSSClamped says that it was another when it left; 0: unknown.
	MSS        int
	MSSClamped bool
	// RTT is the shortest round trip of a datagram. Handshake is how long the
	// first SYN waited for its SYN/ACK, 0 where it met the peer's: much less
	// than RTT means that somebody else answered it.
	RTT, Handshake time.Duration
	// Evidence says what was seen, for users.
	Evidence []string
}

// Usable says whether datagrams cross whole, without waiting for another, and
// at any rate.
func (v Verdict) Usable() bool { return !v.SplitTCP && !v.Coalesced && !v.OptionsStripped }

// Text is the verdict in a line.
func (v Verdict) Text() string {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{
		{v.SplitTCP, "split TCP"}, {v.Coalesced, "segments cut anew"}, {v.SeqRewritten, "sequence numbers shifted"},
		{v.WindowClamped, "window rewritten"}, {v.OptionsStripped, "options of the SYN rewritten"},
		{v.MSSClamped, fmt.Sprintf("MSS clamped to %d", v.MSS)}, {v.Packed, "packed mode works"},
	} {
		if w.is {
			words = append(words, w.word)
		}
	}
	if len(words) == 0 {
		words = []string{"nothing is rewritten"}
	}
	return fmt.Sprintf("%s; round trip %v", strings.Join(words, ", "), v.RTT.Round(100*time.Microsecond))
}

// failure is why datagrams can't go this way, nil if they can.
func (v Verdict) failure(to netip.AddrPort) *path.Failure {
	if v.Usable() {
		return nil
	}
	if !v.SplitTCP && !v.Coalesced {
		return &path.Failure{
			Reason:   "options-stripped",
			Evidence: fmt.Sprintf("a box on the way to %v takes away options of TCP that fake TCP needs at speed: %s", to, strings.Join(v.Evidence, "; ")),
			Advice:   "nothing to do: real TCP and the relay over TLS cross such a box, and are tried",
		}
	}
	return &path.Failure{
		Reason:   "split-tcp",
		Evidence: fmt.Sprintf("a box on the way to %v ends the TCP connection and makes its own (an accelerator, a transparent proxy): %s", to, strings.Join(v.Evidence, "; ")),
		Advice:   "nothing to do: real TCP and the relay over TLS cross such a box, and are tried",
	}
}

// Failure is the *path.Failure "split-tcp" of a path on which datagrams would
// stall or lose their boundaries, "options-stripped" of one on which they would
// be lost at speed, nil of any other. A relay's leg over fake TCP wants to be
// checked by it as well.
func (v Verdict) Failure(to netip.AddrPort) error {
	if f := v.failure(to); f != nil {
		return f
	}
	return nil
}
