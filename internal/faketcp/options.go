package faketcp

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
)

// Options say how segments look, and bound what a Conn remembers. The zero
// Options are DefaultOptions.
type Options struct {
	// Window is the window field of every segment, before scaling by 2^14, so
	// about 1 GiB; 0xFE00 to 0xFFFE, by which our segments are known on a
	// shared port. 0 draws one for each Conn: boxes that look for a
	// fingerprint find no constant.
	Window uint16
	// MSS is announced in the SYN, in bytes. Nothing we send obeys it; boxes
	// that clamp it do so, and some size their buffers by it. 0 is 1360.
	MSS uint16
	// MaxRemotes bounds the flows of one Conn; 0 is 4096. When all are in use
	// a new handshake is refused.
	MaxRemotes int
	// PerPeer bounds the flows with one address; 0 is 256. Performance
	// enhancing proxies cap the TCP connections of an address, so someone
	// behind one may want fewer.
	PerPeer int
	// Packed allows packed mode: datagrams that fill the path travel with
	// their first 12 bytes in fields of the TCP header, where a check proved
	// that nothing on the way looks at these. Never on a port shared with the
	// kernel's TCP.
	Packed bool
}

// The windows by which our segments are told apart on a shared port.
const (
	leastWindow = 0xFE00
	mostWindow  = 0xFFFE
)

// DefaultOptions suit everyone.
func DefaultOptions() Options { return Options{}.withDefaults() }

func (o Options) withDefaults() Options {
	o.MSS = cmp.Or(o.MSS, 1360)
	o.MaxRemotes = cmp.Or(o.MaxRemotes, 4096)
	o.PerPeer = cmp.Or(o.PerPeer, 256)
	return o
}

// Check says all that is wrong.
func (o Options) Check() error {
	var faults []error
	if o.Window != 0 && (o.Window < leastWindow || o.Window > mostWindow) {
		faults = append(faults, fmt.Errorf("window %#x: it must be %#x to %#x, or 0 to draw one", o.Window, leastWindow, mostWindow))
	}
	if o.MSS != 0 && o.MSS < 536 {
		faults = append(faults, fmt.Errorf("MSS %d: at least 536 (RFC 9293 section 3.7.1), or 0 for 1360", o.MSS))
	}
	if o.MaxRemotes < 0 || o.PerPeer < 0 {
		faults = append(faults, errors.New("limits of flows must not be negative; 0 takes the default"))
	}
	return errors.Join(faults...)
}

// window draws one where none is set.
func (o Options) window() uint16 {
	if o.Window != 0 {
		return o.Window
	}
	return leastWindow + uint16(rand.IntN(mostWindow-leastWindow+1))
}

// synOptions are those of every SYN and SYN/ACK of ours: MSS, window scale 14
// (RFC 7323; the largest), SACK permitted. Their layout marks them as ours on a
// shared port. Linux' connection tracking takes a sender without window scale
// for one of 64 KiB, and drops what overruns it.
func synOptions(mss uint16) []byte {
	return []byte{2, 4, byte(mss >> 8), byte(mss), 1, 3, 3, 14, 1, 1, 4, 2}
}

// readOptions says whether a SYN's options are as we send them, and the MSS in
// them (0: none).
func readOptions(b []byte) (whole bool, mss uint16) {
	if len(b) >= 4 && b[0] == 2 && b[1] == 4 {
		mss = uint16(b[2])<<8 | uint16(b[3])
	}
	want := synOptions(mss)
	return mss != 0 && string(b) == string(want), mss
}
