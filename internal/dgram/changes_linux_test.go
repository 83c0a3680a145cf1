package dgram_test

import (
	"context"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
)

func TestChangesAreTold(t *testing.T) {
	netns.Require(t)
	h := netns.New(t).Host("host")
	ctx, cancel := context.WithCancel(t.Context())
	var told <-chan struct{}
	if err := h.Do(func() (err error) { told, err = dgram.Changes(ctx); return err }); err != nil {
		t.Fatal(err)
	}
	h.IP("link add eth0 type veth peer name eth1", "link set dev eth1 up", "link set dev eth0 up")
	for _, c := range []struct{ name, change string }{
		{"an address comes", "address add 192.0.2.1/24 dev eth0"},
		{"a route comes", "route add 198.51.100.0/24 via 192.0.2.254"},
		{"a route goes", "route delete 198.51.100.0/24"},
		{"a link goes", "link set dev eth0 down"},
	} {
		for quiet := false; !quiet; {
			select {
			case <-told:
			case <-time.After(200 * time.Millisecond):
				quiet = true
			}
		}
		h.IP(c.change)
		select {
		case <-told:
		case <-time.After(time.Second):
			t.Errorf("%s, and nothing tells of it", c.name)
		}
	}
	cancel()
	for range told {
	}
}
