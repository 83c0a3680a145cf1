package natlab

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// reaches says whether the server can still reach the inside host at ext.
func reaches(t *testing.T, b *bench, ext netip.AddrPort) bool {
	t.Helper()
	sendTo(t, b.s11, ext, "still?")
	got, _ := receive(t, b.inside)
	return got != ""
}

func TestMappingLifetime(t *testing.T) {
	for _, refresh := range []bool{false, true} {
		t.Run(fmt.Sprintf("inbound refresh %v", refresh), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				b := newBench(t, l, Behaviour{Filtering: AddressAndPortDependent, Ports: Random(20000, 60000), Lifetime: 60 * time.Second, InboundRefresh: refresh})
				ext := seen(t, b.inside, b.s11)
				time.Sleep(50 * time.Second)
				if again := seen(t, b.inside, b.s11); again != ext {
					t.Fatalf("the mapping moved from %v to %v within its lifetime", ext, again)
				}
				time.Sleep(50 * time.Second) // the outbound datagram refreshed it
				if !reaches(t, b, ext) {
					t.Fatal("an outbound datagram did not refresh the mapping")
				}
				time.Sleep(30 * time.Second)
				if got := reaches(t, b, ext); got != refresh {
					t.Fatalf("after inbound datagrams alone the mapping lives: %v", got)
				}
				time.Sleep(61 * time.Second)
				if reaches(t, b, ext) {
					t.Fatal("the mapping outlived its lifetime")
				}
				if again := seen(t, b.inside, b.s11); again == ext {
					t.Error("a new mapping has the expired one's port")
				}
			})
		})
	}
}

// Linux gives 30 s until a flow has been answered and is 2 s old, then 120 s.
func TestLinuxLifetimes(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Home())
		ext := seen(t, b.inside, b.s11)
		if !reaches(t, b, ext) {
			t.Fatal("no answer got in")
		}
		time.Sleep(31 * time.Second)
		if reaches(t, b, ext) {
			t.Fatal("a young flow outlived 30 s")
		}
		seen(t, b.inside, b.s11)
		reaches(t, b, ext)
		time.Sleep(3 * time.Second)
		reaches(t, b, ext)
		time.Sleep(110 * time.Second)
		if !reaches(t, b, ext) {
			t.Fatal("an answered flow of 3 s did not live for 110 s")
		}
		time.Sleep(121 * time.Second)
		if reaches(t, b, ext) {
			t.Fatal("an answered flow outlived 120 s")
		}
	})
}

// Some carriers end a mapping at its age, however busy it is.
func TestAbsoluteLifetime(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Behaviour{Filtering: AddressAndPortDependent, Ports: Random(1024, 65535), InboundRefresh: true, Absolute: 60 * time.Second})
		ext := seen(t, b.inside, b.s11)
		for i := range 5 {
			time.Sleep(10 * time.Second)
			if again := seen(t, b.inside, b.s11); again != ext {
				t.Fatalf("after %d s the mapping moved from %v to %v", 10*(i+1), ext, again)
			}
			if i == 3 {
				seen(t, b.inside, b.s21) // a younger flow of the same mapping ends with it
			}
		}
		time.Sleep(9 * time.Second)
		if !reaches(t, b, ext) {
			t.Fatal("the mapping ended early")
		}
		time.Sleep(2 * time.Second)
		if reaches(t, b, ext) {
			t.Fatal("the mapping outlived its absolute lifetime")
		}
		next := seen(t, b.inside, b.s11)
		if next == ext {
			t.Error("the new mapping has the port of the ended one")
		}
		if got := seen(t, b.inside, b.s21); got != next {
			t.Errorf("another flow is still seen at %v, the newest at %v", got, next)
		}
	})
}
