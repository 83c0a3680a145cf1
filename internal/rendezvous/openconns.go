package rendezvous

import (
	"maps"
	"slices"
	"sync"
)

// openConns are the control connections, of agents and of those who are none
// yet.
type openConns struct {
	mu  sync.Mutex
	set map[*agentConn]struct{}
}

func (o *openConns) add(a *agentConn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.set == nil {
		o.set = make(map[*agentConn]struct{})
	}
	o.set[a] = struct{}{}
}

func (o *openConns) remove(a *agentConn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.set, a)
}

func (o *openConns) all() []*agentConn {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.set))
}
