package sources

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"
)

const ms = time.Millisecond

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func TestOf(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8:0:1:2::3": "2001:db8:0:1::/64",
	} {
		if got := Of(netip.MustParseAddr(from)); got != netip.MustParsePrefix(want) {
			t.Errorf("%s is of %v, want %s", from, got, want)
		}
	}
	if got := Of(netip.Addr{}); got.IsValid() {
		t.Errorf("no address is of %v", got)
	}
}

func TestCount(t *testing.T) {
	c := NewCount(3, 2)
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for i, each := range []struct {
		from netip.Addr
		want bool
	}{{one, true}, {one, true}, {one, false}, {other, true}, {netip.MustParseAddr("198.51.100.1"), false}} {
		if got := c.Enter(each.from); got != each.want {
			t.Errorf("row %d, %v: %v", i, each.from, got)
		}
	}
	c.Leave(one)
	if all, of := c.Open(); all != 2 || of != 2 {
		t.Errorf("%d are open, of %d sources", all, of)
	}
	c.Leave(one)
	c.Leave(other)
	if all, of := c.Open(); all != 0 || of != 0 {
		t.Errorf("%d stay open, of %d sources", all, of)
	}
}

func TestBucket(t *testing.T) {
	var b Bucket
	r := Rate{Every: time.Second, Burst: 3}
	for i, c := range []struct {
		at   time.Duration
		want bool
	}{
		{0, true}, {0, true}, {0, true}, {0, false},
		{999 * ms, false}, {time.Second, true}, {time.Second, false},
		{2500 * ms, true}, {2500 * ms, false}, {3 * time.Second, true},
		{time.Minute, true}, {time.Minute, true}, {time.Minute, true}, {time.Minute, false},
		{-time.Hour, true}, // the clock was set back
	} {
		if got := b.Take(noon.Add(c.at), r); got != c.want {
			t.Errorf("row %d at %v: %v", i, c.at, got)
		}
	}
}

// anyRate is for tests that ask more often than it gives.
var anyRate = Rate{Every: 100 * ms, Burst: 40}

func TestBucketsIPv6(t *testing.T) {
	all := NewBuckets()
	allowed := 0
	for i := range 1000 {
		a := netip.MustParseAddr("2001:db8:1:2::").As16()
		binary.BigEndian.PutUint16(a[14:], uint16(i))
		if all.Take(noon, netip.AddrFrom16(a), anyRate) {
			allowed++
		}
	}
	if allowed != anyRate.Burst {
		t.Errorf("%d of one /64's requests were allowed, want %d", allowed, anyRate.Burst)
	}
	if all.Take(noon, netip.Addr{}, anyRate) {
		t.Error("no address was allowed")
	}
}

// The table's memory is fixed, and a flood from everywhere doesn't give a
// victim's tokens back.
func TestBucketsInAFlood(t *testing.T) {
	all := NewBuckets()
	victim := netip.MustParseAddr("198.51.100.2")
	for range anyRate.Burst {
		all.Take(noon, victim, anyRate)
	}
	for i := range 100_000 {
		all.Take(noon, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), anyRate)
	}
	if all.Take(noon, victim, anyRate) {
		t.Error("a flood gave the victim's tokens back")
	}
}

// The ports of a rule have readers of their own, and share its table.
func TestBucketsAreSharedByReaders(t *testing.T) {
	all := NewBuckets()
	var readers sync.WaitGroup
	var mu sync.Mutex
	allowed := 0
	for range 4 {
		readers.Go(func() {
			for range 100 {
				if all.Take(noon, netip.MustParseAddr("198.51.100.2"), anyRate) {
					mu.Lock()
					allowed++
					mu.Unlock()
				}
			}
		})
	}
	readers.Wait()
	if allowed != anyRate.Burst {
		t.Errorf("%d were allowed, want %d", allowed, anyRate.Burst)
	}
}
