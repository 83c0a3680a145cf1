package faketcp

import (
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// segmentsForFilters are segments to port 443, and whether they are ours on a port that is
// shared.
var segmentsForFilters = []struct {
	name string
	seg  segment
	ours bool
}{
	{"our SYN", segment{flags: flagSYN, options: []byte{2, 4, 5, 0x50, 1, 3, 3, 14, 1, 1, 4, 2}}, true},
	{"our SYN/ACK, clamped MSS", segment{flags: flagSYN | flagACK, options: []byte{2, 4, 1, 0, 1, 3, 3, 14, 1, 1, 4, 2}}, true},
	{"our data", segment{flags: flagPSH | flagACK, window: 0xfe37}, true},
	{"lowest window", segment{flags: flagACK, window: 0xfe00}, true},
	{"highest window", segment{flags: flagACK, window: 0xfffe}, true},
	{"Linux's SYN", segment{flags: flagSYN, window: 64240, options: []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7}}, false},
	{"Windows' SYN", segment{flags: flagSYN, window: 64240, options: []byte{2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2}}, false},
	{"macOS's SYN", segment{flags: flagSYN, window: 65535, options: []byte{2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0}}, false},
	{"Linux's data", segment{flags: flagPSH | flagACK, window: 501, options: []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}}, false},
	{"timestamps and our window", segment{flags: flagPSH | flagACK, window: 0xff00, options: []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}}, false},
	{"Windows' data", segment{flags: flagPSH | flagACK, window: 1026}, false},
	{"unscaled window", segment{flags: flagACK, window: 65535}, false},
	{"no ACK", segment{flags: flagPSH, window: 0xff00}, false},
	{"RST", segment{flags: flagRST, window: 0}, false},
}

// machine runs a program as the kernel would.
func machine(t *testing.T, code []bpf.Instruction) func(packet []byte) bool {
	t.Helper()
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return func(packet []byte) bool {
		kept, err := vm.Run(packet)
		if err != nil {
			t.Fatal(err)
		}
		return kept > 0
	}
}

func TestFilters(t *testing.T) {
	guarded := machine(t, nothing())
	listener := machine(t, withoutOurs())
	for _, c := range segmentsForFilters {
		for _, six := range []bool{false, true} {
			s := c.seg
			s.local, s.remote = to4, from4
			if six {
				s.local, s.remote = to6, from6
			}
			packet := appendHeader(nil, &s, 1, 0)
			tcp := packet[len(packet)-tcpSize-len(s.options):]
			if guarded(tcp) {
				t.Errorf("%s reaches the guarded kernel", c.name)
			}
			if listener(tcp) == c.ours {
				t.Errorf("%s, IPv6 %v: the kernel's listener gets it: %v", c.name, six, !c.ours)
			}
			for _, offset := range []uint32{bareOffset, framedOffset} {
				frame := append(make([]byte, offset), packet...)
				if !machine(t, segmentsAt(offset, 443, six, false))(frame) {
					t.Errorf("%s, IPv6 %v, at %d: is not kept where all is", c.name, six, offset)
				}
				if machine(t, segmentsAt(offset, 443, six, true))(frame) != c.ours {
					t.Errorf("%s, IPv6 %v, at %d: should be ours: %v", c.name, six, offset, c.ours)
				}
				if machine(t, segmentsAt(offset, 444, six, false))(frame) {
					t.Errorf("%s is kept for another port", c.name)
				}
			}
		}
	}
}

func TestFilterSeesBehindIPv4Options(t *testing.T) {
	s := segment{local: to4, remote: from4, flags: flagACK, window: lowWindow}
	plain := appendHeader(nil, &s, 1, 0)
	packet := append([]byte{0x46}, plain[1:ip4Size]...)
	packet = append(packet, 1, 1, 1, 1)
	packet = append(packet, plain[ip4Size:]...)
	if !machine(t, segmentsAt(0, 443, false, true))(packet) {
		t.Error("a segment behind an IP option is not seen")
	}
	packet[6] = 0x20
	if machine(t, segmentsAt(0, 443, false, false))(packet) {
		t.Error("a fragment is kept")
	}
	packet[6], packet[9] = 0, unix.IPPROTO_UDP
	if machine(t, segmentsAt(0, 443, false, false))(packet) {
		t.Error("UDP is kept")
	}
}
