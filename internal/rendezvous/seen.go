package rendezvous

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// How a coordinator that was killed calls its agents back; see wake.
const (
	seenEvery  = time.Second            // how often addresses are written, when there is something new
	seenOld    = time.Hour              // an address that old belongs to somebody else by now
	wakePace   = 500 * time.Microsecond // between two wakes, more while many come
	wakeRounds = 3                      // as wakes may be lost
	wakeRest   = time.Second            // between two rounds
)

// way is where an agent is: our socket's address and its own.
type way struct{ local, remote netip.AddrPort }

func (w way) String() string { return w.local.String() + " " + w.remote.String() }

func parseWay(s string) (way, error) {
	l, r, _ := strings.Cut(s, " ")
	local, err := netip.ParseAddrPort(l)
	if err != nil {
		return way{}, err
	}
	remote, err := netip.ParseAddrPort(r)
	if err != nil {
		return way{}, err
	}
	return way{local, remote}, nil
}

// seen collects where agents come and go, until it is written. Losing the last
// seconds at a kill costs those agents a heartbeat's time, not more, so it is
// not worth a write for each.
type seen struct {
	mu    sync.Mutex
	dirty map[way]bool // true: it is here
}

func (s *seen) note(w way, here bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty == nil {
		s.dirty = map[way]bool{}
	}
	s.dirty[w] = here
}

// noteSeen notes that an agent came or went, if a wake would reach it: the
// agents on a stream learn from their kernel that the coordinator is gone.
func (s *Server) noteSeen(a *agentConn, here bool) {
	if a.spot.transport == proto.Transport_TRANSPORT_UDP {
		s.seen.note(way{a.spot.local, a.remote}, here)
	}
}

func (s *seen) take() map[way]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirty
	s.dirty = nil
	return d
}

// keepSeen writes where agents have come and gone.
func (r *Registry) keepSeen(now time.Time, changes map[way]bool) error {
	if len(changes) == 0 {
		return nil
	}
	return r.update("where agents are", func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketSeen)
		for w, here := range changes {
			var err error
			if here {
				err = b.Put([]byte(w.String()), []byte(now.UTC().Format(time.RFC3339)))
			} else {
				err = b.Delete([]byte(w.String()))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// takeSeen gives where agents were when the registry was last in use, and
// forgets it.
func (r *Registry) takeSeen(now time.Time) (ways []way, err error) {
	err = r.update("where agents were", func(tx *bbolt.Tx) error {
		ways = nil
		err := tx.Bucket(bucketSeen).ForEach(func(k, v []byte) error {
			at, errAt := time.Parse(time.RFC3339, string(v))
			w, errWay := parseWay(string(k))
			if errAt == nil && errWay == nil && now.Sub(at) < seenOld {
				ways = append(ways, w)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := tx.DeleteBucket(bucketSeen); err != nil {
			return err
		}
		_, err = tx.CreateBucket(bucketSeen)
		return err
	})
	return ways, err
}

// callBack wakes the agents that were connected when the last process was
// killed. After a stop in good order there are none.
func (s *Server) callBack(ctx context.Context) {
	ways, err := s.registry.takeSeen(time.Now())
	if err != nil {
		s.log.Error().Err(err).Msg("call back the agents of before the restart")
	}
	if len(ways) == 0 {
		return
	}
	s.log.Info().Int("agents", len(ways)).Msg("calling back agents that were connected before")
	bySocket := map[netip.AddrPort]*socket{}
	for _, each := range s.sockets {
		if each.transport == proto.Transport_TRANSPORT_UDP {
			bySocket[each.local] = each
		}
	}
	pace := time.NewTicker(wakePace)
	defer pace.Stop()
	for round := range wakeRounds {
		if round > 0 && !path.Wait(ctx, wakeRest) {
			return
		}
		for _, w := range ways {
			for waits := true; waits; waits = s.door.busy() {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
			}
			if out := bySocket[w.local]; out != nil && out.conn.Write(dgram.One(w.remote, wake)) != nil {
				s.drops.wakes.Add(1)
			}
		}
	}
}

// keepSeen writes now and then where the agents are, until ctx ends.
func (s *Server) keepSeen(ctx context.Context) {
	for path.Wait(ctx, seenEvery) {
		if err := s.registry.keepSeen(time.Now(), s.seen.take()); err != nil {
			s.log.Error().Err(err).Msg("keep where agents are; after a kill they will need longer to come back")
		}
	}
	// All agents are told goodbye, so nobody needs to be called back.
	if _, err := s.registry.takeSeen(time.Now()); err != nil {
		s.log.Error().Err(fmt.Errorf("forget where agents were: %w", err)).Send()
	}
}
