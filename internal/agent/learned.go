package agent

import (
	"rendezvous/internal/path"
)

// Pair is what joined two networks the last time.
type Pair struct {
	Network string `json:"network"` // a fingerprint of ours
	Peer    string `json:"peer"`
	Outside string `json:"outside"` // the address that the peer was seen from
	Attempt uint32 `json:"attempt"` // whose plan worked, from 2 on
}

func (p Pair) same(o Pair) bool {
	return p.Network == o.Network && p.Peer == o.Peer && p.Outside == o.Outside
}

// maxPairs bounds the pairs that are remembered: the least recently used goes
// first.
const maxPairs = 64

// SawJoined remembers what joined two networks. It writes only what is news; an
// Attempt of 1 needs no memory, and ends one.
func (s *State) SawJoined(p Pair) error {
	if p.Network == "" || p.Outside == "" || s.JoinedBy(p) == p.Attempt || p.Attempt < 2 && s.JoinedBy(p) == 0 {
		return nil
	}
	var next []Pair
	if p.Attempt > 1 {
		next = append(next, p)
	}
	for _, o := range s.read().Pairs {
		if !o.same(p) && len(next) < maxPairs {
			next = append(next, o)
		}
	}
	return s.update(func(k *kept) { k.Pairs = next })
}

// JoinedBy is the attempt that joined these two networks the last time, 0 where
// none is remembered.
func (s *State) JoinedBy(p Pair) uint32 {
	for _, o := range s.read().Pairs {
		if o.same(p) {
			return o.Attempt
		}
	}
	return 0
}

// pair is ours with the peer, as it was last heard of.
func (as *association) pair() Pair {
	as.mu.Lock()
	outside := as.heard.last.outside
	as.mu.Unlock()
	p := Pair{Network: as.a.fingerprint(), Peer: as.peer.name}
	if len(outside) > 0 {
		p.Outside = outside[0].String()
	}
	return p
}

// learn remembers that an attempt led to a direct path over UDP.
func (as *association) learn(attempt uint32) {
	if as.raw != nil || as.Best() != path.DirectUDP {
		return
	}
	p := as.pair()
	p.Attempt = attempt
	if err := as.a.cfg.State.SawJoined(p); err != nil {
		as.a.refusals.note(as.a, "state", err)
	}
}

// learned is the attempt to begin with, n unless a later one is known to work.
func (as *association) learned(n uint32) uint32 {
	return max(n, as.a.cfg.State.JoinedBy(as.pair()))
}
