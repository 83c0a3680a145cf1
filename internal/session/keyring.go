package session

import (
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// sending is the key that datagrams leave under, and how many have.
type sending struct {
	epoch   uint8
	sealer  *seal.Sealer
	counter atomic.Uint64
}

// receiving is a key that datagrams may arrive under.
type receiving struct {
	epoch  uint8
	opener *seal.Opener
	mu     sync.Mutex
	window seal.Window
}

// keyring holds the current key and, around a rekey, the one before it or the
// next; the header's epoch bit tells them apart.
type keyring struct {
	sending  atomic.Pointer[sending]
	next     atomic.Pointer[sending] // the responder's, until the initiator uses its own
	received [2]atomic.Pointer[receiving]
	export   atomic.Pointer[[32]byte]
	began    atomic.Int64 // when the current key was settled, Unix nanoseconds
}

// install adds the keys of an epoch. The initiator sends under them at once;
// the responder when the first datagram under them arrives, for only that
// proves that the initiator has them.
func (k *keyring) install(epoch uint8, keys seal.Keys, now bool) {
	k.received[epoch&1].Store(&receiving{epoch: epoch, opener: seal.NewOpener(keys.Receive, keys.Cipher)})
	out := &sending{epoch: epoch, sealer: seal.NewSealer(keys.Send, keys.Cipher)}
	k.export.CompareAndSwap(nil, &keys.Export) // the first handshake's, for good
	if now {
		k.sending.Store(out)
		k.next.Store(nil)
		k.began.Store(time.Now().UnixNano())
		return
	}
	k.next.Store(out)
}

// settle switches to the keys of epoch if they wait for it.
func (k *keyring) settle(epoch uint8) {
	if n := k.next.Load(); n != nil && n.epoch == epoch && k.next.CompareAndSwap(n, nil) {
		k.sending.Store(n)
		k.began.Store(time.Now().UnixNano())
	}
}

// oldKeyFor is how long a replaced key still opens what is on its way; then it
// is gone, so that whoever takes the machine later can't read what passed.
const oldKeyFor = 10 * time.Second

// retire forgets the key before the current one.
func (k *keyring) retire(now time.Time) {
	cur := k.sending.Load()
	if cur == nil || now.UnixNano()-k.began.Load() < int64(oldKeyFor) {
		return
	}
	slot := &k.received[(cur.epoch+1)&1]
	if old := slot.Load(); old != nil && old.epoch == cur.epoch-1 {
		slot.CompareAndSwap(old, nil)
	}
}

// Export is a secret that both ends derived from their first handshake and
// nobody else has; nil before Establish.
func (s *Session) Export() *[32]byte { return s.keys.export.Load() }

// Rekeyer makes and answers handshakes for new keys with the same peer.
type Rekeyer interface {
	Initiate() (message []byte, finish func(answer []byte) (seal.Keys, error), err error)
	Respond(message []byte) (answer []byte, k seal.Keys, err error)
}

// maxDatagrams is how many datagrams one key may seal.
const maxDatagrams = 1 << 60

// rekeying is a handshake under way, or the last one answered.
type rekeying struct {
	epoch   uint8
	message []byte
	answer  []byte
	finish  func([]byte) (seal.Keys, error)
	sentAt  time.Time
}

const rekeyAgain = 500 * time.Millisecond

// renew begins or repeats a rekey when it is due. The session's initiator
// alone begins one, so two never cross. Caller holds s.mu.
func (s *Session) renew(now time.Time) *proto.Frame {
	cur := s.keys.sending.Load()
	if cur == nil || s.cfg.Rekey == nil || !s.cfg.Initiator {
		return nil
	}
	r := &s.probes.rekey
	if r.message == nil {
		due := now.UnixNano()-s.keys.began.Load() > int64(s.cfg.Timers.Rekey) || cur.counter.Load() > maxDatagrams
		if !due || !s.seen.active(now, s.cfg.Timers.Rekey) {
			return nil
		}
		message, finish, err := s.cfg.Rekey.Initiate()
		if err != nil {
			return nil
		}
		*r = rekeying{epoch: cur.epoch + 1, message: message, finish: finish}
	}
	if now.Sub(r.sentAt) < rekeyAgain {
		return nil
	}
	r.sentAt = now
	return &proto.Frame{Body: &proto.Frame_Rekey{Rekey: &proto.Rekey{Epoch: uint32(r.epoch), Handshake: r.message}}}
}

// answerRekey is the responder's half. A repeated message gets the same
// answer, so that both ends hold the same keys.
func (s *Session) answerRekey(m *proto.Rekey) {
	if s.cfg.Rekey == nil || s.cfg.Initiator {
		s.counts.drop(dropBadFrame, 1)
		return
	}
	s.mu.Lock()
	r := &s.probes.rekey
	cur := s.keys.sending.Load()
	if string(r.message) != string(m.GetHandshake()) || r.answer == nil {
		if cur == nil || uint8(m.GetEpoch()) != cur.epoch+1 {
			s.mu.Unlock()
			s.counts.drop(dropBadFrame, 1)
			return
		}
		answer, keys, err := s.cfg.Rekey.Respond(m.GetHandshake())
		if err != nil {
			s.mu.Unlock()
			s.counts.drop(dropBadFrame, 1)
			return
		}
		*r = rekeying{epoch: uint8(m.GetEpoch()), message: m.GetHandshake(), answer: answer}
		s.keys.install(r.epoch, keys, false)
	}
	f := &proto.Frame{Body: &proto.Frame_Rekeyed{Rekeyed: &proto.Rekey{Epoch: uint32(r.epoch), Handshake: r.answer}}}
	s.mu.Unlock()
	s.SendFrame(f)
}

// finishRekey is the initiator's second half. The frame it sends at once is
// the first under the new key, and moves the responder over.
func (s *Session) finishRekey(m *proto.Rekey) {
	s.mu.Lock()
	r := &s.probes.rekey
	if r.finish == nil || uint8(m.GetEpoch()) != r.epoch {
		s.mu.Unlock()
		return
	}
	keys, err := r.finish(m.GetHandshake())
	if err != nil {
		s.mu.Unlock()
		s.counts.drop(dropBadFrame, 1)
		return
	}
	s.keys.install(r.epoch, keys, true)
	*r = rekeying{}
	s.mu.Unlock()
	s.SendFrame(&proto.Frame{})
}
