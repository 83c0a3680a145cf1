package stripe

import "testing"

func TestNumberOfFeature(t *testing.T) {
	set := make([]byte, 3*stringSize)
	for i, name := range []string{"rx-gro", "rx-udp-gro-forwarding", "rx-udp-gro"} {
		copy(set[i*stringSize:], name)
	}
	for name, want := range map[string]int{"rx-gro": 0, "rx-udp-gro-forwarding": 1, "rx-udp-gro": 2, "rx-udp": -1, "": -1} {
		if got := numberOf(set, name); got != want {
			t.Errorf("%q is number %d, not %d", name, got, want)
		}
	}
	if got := numberOf(set[:stringSize-1], "rx-gro"); got != -1 {
		t.Errorf("in half a string it is number %d", got)
	}
}

func TestMergingWantsANewKernel(t *testing.T) {
	for release, want := range map[string]bool{"6.18.44-fc": true, "6.2": true, "7.0.1": true, "6.1.0-43-amd64": false, "5.15.0": false, "": false, "x.y": false} {
		if got := isSince(release, mergeSince); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}
