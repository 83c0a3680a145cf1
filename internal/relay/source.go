package relay

import (
	"net/netip"
	"sync"

	"rendezvous/internal/dgram"
)

// source is where a leg is: its address, and our conn that it sends to.
type source struct {
	conn dgram.Conn
	addr netip.AddrPort
}

// shards of the source table: a bind locks one, the readers of the others do
// not notice.
const shards = 16

// sources finds the leg by where a burst came from, once for each burst. The
// zero sources are ready.
type sources [shards]struct {
	mu   sync.RWMutex
	legs map[source]*leg
}

func (s *sources) find(at source) *leg {
	shard := &s[at.addr.Port()%shards]
	shard.mu.RLock()
	l := shard.legs[at]
	shard.mu.RUnlock()
	return l
}

// add is false when the address is another leg's.
func (s *sources) add(at source, l *leg) bool {
	shard := &s[at.addr.Port()%shards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if have := shard.legs[at]; have != nil {
		return have == l
	}
	if shard.legs == nil {
		shard.legs = make(map[source]*leg)
	}
	shard.legs[at] = l
	return true
}

func (s *sources) remove(at source) {
	shard := &s[at.addr.Port()%shards]
	shard.mu.Lock()
	delete(shard.legs, at)
	shard.mu.Unlock()
}
