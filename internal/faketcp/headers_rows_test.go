package faketcp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
)

// tcpFlags are the flags that a NAT lets a segment have (Linux:
// tcp_valid_flags, in nf_conntrack_proto_tcp.c); PSH, and URG of packed
// segments, may be with those that have ACK.
var tcpFlags = map[uint8]bool{
	flagSYN: true, flagSYN | flagACK: true, flagACK: true, flagFIN | flagACK: true, flagRST: true, flagRST | flagACK: true,
}

// inspector is a box that reads the bytes which the devices would send, as a
// NAT does that knows TCP.
type inspector struct {
	seen   map[uint8]int // by flags
	faults []string
}

func (i *inspector) pass(_ *wire, _ int, _ course, p *parcel) *parcel {
	if fault := inspect(&p.segment, p.payload); fault != "" {
		i.faults = append(i.faults, fault)
	}
	i.seen[p.flags&^(flagPSH|flagURG)]++
	return p
}

// inspect says what is wrong with a segment's bytes; "" where nothing is.
func inspect(s *segment, payload []byte) string {
	b := appendHeader(nil, s, 7, len(payload))
	at := len(b) - tcpSize - len(s.options)
	complete(b[at:], payload)
	b = append(b, payload...)
	offset := int(b[at+12] >> 4)
	var back segment
	tcp, begin, end, err := parse(b, len(b), &back)
	switch {
	case b[9] != protocolTCP:
		return fmt.Sprintf("protocol %d", b[9])
	case offset < 5 || at+4*offset > len(b):
		return fmt.Sprintf("data offset %d", offset)
	case err != nil:
		return err.Error()
	case !intact(&back, b[tcp:begin], b[begin:end]):
		return "a wrong checksum"
	case !tcpFlags[back.flags&^(flagPSH|flagURG)] || back.flags&(flagPSH|flagURG) != 0 && back.flags&flagACK == 0:
		return fmt.Sprintf("flags %#x", back.flags)
	case back.flags&(flagSYN|flagFIN) != 0 && len(payload) > 0:
		return fmt.Sprintf("%d bytes in a segment with flags %#x", len(payload), back.flags)
	}
	return ""
}

// Shows half of S0-17: all that we send under protocol 6 has a TCP header that a
// NAT can read: data offset, flags, checksum. That goes for the handshake, the
// checks, data, packed data and the end.
func TestEverySegmentHasARealTCPHeader(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := &inspector{seen: make(map[uint8]int)}
		w := newWire(leftAddr, rightAddr, i)
		left, right := w.hosts(t, Options{Packed: true})
		if err := left.Open(t.Context(), rightAddr); err != nil {
			t.Fatal(err)
		}
		for _, h := range []struct {
			*host
			to netip.AddrPort
		}{{left, rightAddr}, {right, leftAddr}} {
			if v, err := h.Check(t.Context(), h.to); err != nil || !v.Packed {
				t.Fatalf("%s: %v", v.Text(), err)
			}
		}
		random := rand.New(rand.NewPCG(17, 17))
		for range 200 {
			for _, size := range []int{1 + random.IntN(1400), 1472} { // as large as UDP's: packed
				b := make([]byte, 3*size)
				for k := range b {
					b[k] = byte(random.Uint32())
				}
				burst := dgram.Burst{Addr: rightAddr, Buf: b, Size: size}
				if err := left.Write(burst); err != nil {
					t.Fatal(err)
				}
				burst.Addr = leftAddr
				if err := right.Write(burst); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		for _, h := range []*host{left, right} {
			if n := len(h.arrivals()); n != 1200 {
				t.Errorf("%d of 1200 datagrams came", n)
			}
			h.Close()
		}
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, fault := range i.faults[:min(len(i.faults), 10)] {
			t.Error(fault)
		}
		if i.seen[flagSYN] == 0 || i.seen[flagSYN|flagACK] == 0 || i.seen[flagACK] < 2400 {
			t.Errorf("seen %v, by flags", i.seen)
		}
		t.Logf("segments by flags: %v", i.seen)
	})
}
