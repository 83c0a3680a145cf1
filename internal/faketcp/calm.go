package faketcp

import (
	"time"

	"rendezvous/internal/path"
)

// address is what all flows to one have in common.
type address struct {
	flows int
	opens int           // of an attempt
	rsts  int           // that answered these
	began time.Duration // when the attempt did
}

// open notes that an Open begins; what came of those long ago doesn't count.
func (a *address) open(now time.Duration) {
	if now-a.began >= leastPatience {
		a.opens, a.rsts, a.began = 0, 0, now
	}
	a.opens++
}

// calm counts a RST that answered a SYN: how long to rest after it.
func (t *table) calm(f *flow) time.Duration {
	a := t.perAddr[f.remote.Addr()]
	if f.hs.waiters == 0 || a == nil {
		return 0
	}
	a.rsts++
	return path.AfterRefusals(a.rsts, a.opens)
}
