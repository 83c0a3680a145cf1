//go:build linux

package hop

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func TestQueueGivesTheEarliestAndOldest(t *testing.T) {
	var q queue
	for i := range uint64(1000) {
		q.push(item{at: time.Duration(rand.IntN(20)), number: i})
	}
	last := q.pop()
	for len(q) > 0 {
		next := q.pop()
		if next.at < last.at || next.at == last.at && next.number < last.number {
			t.Fatalf("%v/%d came after %v/%d", next.at, next.number, last.at, last.number)
		}
		last = next
	}
}

// ping4 is an echo request from 192.168.2.2 to 203.0.113.10 with TTL 5, ping6
// one from 2001:db8:2::2 to 2001:db8:1::10.
func ping4(t *testing.T) []byte {
	return unhex(t, "4500001c000040000501"+"0000"+"c0a80202"+"cb00710a"+"0800f7ff00000000")
}

func ping6(t *testing.T) []byte {
	return unhex(t, "6000000000083a05"+"20010db8000200000000000000000002"+"20010db8000100000000000000000010"+"8000000000000000")
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	if b[0]>>4 == 4 {
		setHeaderChecksum(b)
	}
	return b
}

func TestDecrementTTL(t *testing.T) {
	for _, make := range []func(*testing.T) []byte{ping4, ping6} {
		for routers, want := range map[int]int{0: 0, 4: 0, 5: 5, 9: 5} {
			p := make(t)
			if got := decrementTTL(p, routers); got != want {
				t.Errorf("past %d routers with TTL 5: ended at %d, want %d", routers, got, want)
			}
			if p[0]>>4 == 4 && sum(p[:ipv4Header], 0) != 0xffff {
				t.Errorf("past %d routers the header's checksum is wrong: %x", routers, p)
			}
		}
	}
}

func TestTimeExceeded(t *testing.T) {
	four := timeExceeded(nil, ping4(t), 3)
	if sum(four[:ipv4Header], 0) != 0xffff || sum(four[ipv4Header:], 0) != 0xffff {
		t.Errorf("a checksum is wrong: %x", four)
	}
	if dst, _ := destination(four); dst != netip.MustParseAddr("192.168.2.2") || !bytes.HasSuffix(four, ping4(t)) {
		t.Errorf("the answer goes to %v: %x", dst, four)
	}
	six := timeExceeded(nil, ping6(t), 3)
	if pseudo := sum(six[8:40], uint32(len(six)-ipv6Header)+protoICMPv6); sum(six[ipv6Header:], uint32(pseudo)) != 0xffff {
		t.Errorf("the ICMPv6 checksum is wrong: %x", six)
	}
	if dst, _ := destination(six); dst != netip.MustParseAddr("2001:db8:2::2") {
		t.Errorf("the answer goes to %v", dst)
	}
	for _, about := range [][]byte{four, six} {
		if again := timeExceeded(nil, about, 1); again != nil {
			t.Errorf("an ICMP error was answered with %x", again)
		}
	}
}

func TestRateAndQueue(t *testing.T) {
	l := lane{Link: Link{Rate: 8_000_000, Queue: 10 * time.Millisecond}} // 1 ms for 1000 bytes
	now := monotonic()
	passed := 0
	for range 50 {
		at, ok := l.arrival(1000)
		if ok {
			passed++
			if late := at - now - time.Duration(passed)*time.Millisecond; late < 0 || late > 2*time.Millisecond {
				t.Errorf("packet %d comes out %v off", passed, late)
			}
		}
	}
	if passed < 11 || passed > 15 {
		t.Errorf("%d packets passed, the queue holds 10 and one is on the wire", passed)
	}
}

func TestRouteTakesTheLongestPrefix(t *testing.T) {
	n, err := New(Link{})
	if err != nil {
		t.Fatal(err)
	}
	wide, narrow := &port{name: "wide"}, &port{name: "narrow"}
	wide.prefixes = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	narrow.prefixes = []netip.Prefix{netip.MustParsePrefix("198.51.100.128/25"), netip.MustParsePrefix("2001:db8::/32")}
	for addr, want := range map[string]*port{"198.51.100.1": wide, "198.51.100.200": narrow, "2001:db8::1": narrow, "203.0.113.1": nil} {
		ports := &Internet{ports: []*port{wide, narrow}}
		if got := ports.route(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s goes to %v, want %v", addr, got, want)
		}
	}
	if _, err := n.Link("wide", "narrow"); err == nil {
		t.Error("there is a link between ports that don't exist")
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzPacket: what comes out of a TUN device may be any bytes.
func FuzzPacket(f *testing.F) {
	f.Add(unhexSeed("4500001c000040000501000000000000cb00710a0800f7ff00000000"), 3)
	f.Add(unhexSeed("6000000000083a0520010db8000200000000000000000002200000000000000000000000000000108000000000000000"), 8)
	f.Fuzz(func(t *testing.T, b []byte, routers int) {
		if len(b) > maxPacket || routers < 0 {
			return
		}
		if _, ok := destination(b); !ok {
			return
		}
		isFragment(b)
		if router := decrementTTL(b, routers); router > 0 {
			timeExceeded(nil, b, router)
		}
	})
}

func unhexSeed(s string) []byte {
	b, _ := hex.DecodeString(s)
	return b
}
