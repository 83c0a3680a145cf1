package agent

import (
	"sort"
	"sync"
)

// roster is the peers by name.
type roster struct {
	mu     sync.Mutex
	byName map[string]*peer
}

func (r *roster) all() []*peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*peer, 0, len(r.byName))
	for _, p := range r.byName {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}
