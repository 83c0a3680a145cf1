//go:build !mips && !mips64 && !ppc64 && !s390x

package fastpath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// Detour is a flow that the kernel forwards. Kernel.mu guards it.
type Detour struct {
	k          *Kernel
	near, wide place
	out, in    flowArrival   // what the client or service sends, and the peer
	there      flowDeparture // of out, but for the size
	counts     Counts        // of entries that were taken out
	probes     uint64        // of the peer's, as they were counted last
	heard      time.Time     // when there was another; zero before the first
	ended      bool
}

// put has the kernel forward what arrives so. Another detour's entry is replaced,
// for the flow is now ours: each knows its own.
func (d *Detour) put(from flowArrival, to flowDeparture) error {
	if other := d.k.of[from]; other != nil {
		other.take(from)
	}
	if err := d.k.objects.Flows.Put(from, to); err != nil {
		return fmt.Errorf("have the kernel forward a flow: %w", plain(err))
	}
	d.k.of[from] = d
	return nil
}

// take ends that; what it counted is kept.
func (d *Detour) take(from flowArrival) {
	if d.k.of[from] != d {
		return
	}
	into := &d.counts.Rx
	if from == d.out {
		into = &d.counts.Tx
	}
	delete(d.k.of, from)
	var last flowDeparture
	if d.k.objects.Flows.LookupAndDelete(from, &last) == nil {
		*into = into.plus(Traffic{last.Datagrams, last.Bytes})
	}
}

// silence is how long the peer's probes, or its answers to ours, which come each
// 0.4 s, may stay away from where they are expected.
const silence = 1500 * time.Millisecond

// Allow has the kernel forward what the client or service sends too, datagrams of
// at most so many bytes. Call it as often as the peer is probed. It waits until a
// probe of the peer's was seen where its datagrams are expected, and takes the flow
// out again when they come another way: what the kernel forwards would not take that,
// nor meet a NAT of this host's own. It says whether the kernel forwards.
func (d *Detour) Allow(largest int) (forwards bool, err error) {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	if seen := d.read(d.in).Probes; seen != d.probes {
		d.probes, d.heard = seen, time.Now()
	}
	switch {
	case d.ended:
		return false, nil
	case time.Since(d.heard) > silence:
		d.take(d.out)
		return false, nil
	case d.k.of[d.out] == d && int(d.there.Largest) == largest:
		return true, nil
	}
	d.take(d.out)
	d.there.Largest = uint32(largest)
	return true, d.put(d.out, d.there)
}

func (d *Detour) read(from flowArrival) (now flowDeparture) {
	if d.k.of[from] != d {
		return flowDeparture{}
	}
	if err := d.k.objects.Flows.Lookup(from, &now); errors.Is(err, ebpf.ErrKeyNotExist) {
		return flowDeparture{}
	}
	return now
}

// Counts is what was forwarded since Begin; of what the peer sent, until its last
// probe, or the end.
func (d *Detour) Counts() Counts {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	out, in := d.read(d.out), d.read(d.in)
	return d.counts.Plus(Counts{Tx: Traffic{out.Datagrams, out.Bytes}, Rx: Traffic{in.DatagramsThen, in.BytesThen}})
}

// End gives the datagrams back to the agent, at once. Counts stays as it is.
func (d *Detour) End() {
	d.k.mu.Lock()
	was := d.ended
	d.ended = true
	d.take(d.out)
	d.take(d.in)
	d.k.mu.Unlock()
	if !was {
		d.k.release(d.near)
		d.k.release(d.wide)
	}
}
