package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// near says whether both sides prime for neighbouring NATs in this punch from new
// ports: every second time, for nobody knows how far apart they are.
func near(m *proto.Again) bool {
	if raw := m.GetRaw(); raw != nil {
		return len(raw.GetSeed()) > 0 && raw.GetSeed()[0]%2 == 1
	}
	return m.GetAttempt()%2 == 0
}

// kindsOf reads the kinds of direct path of an Again; none means direct-udp.
func kindsOf(names []string) (kinds []path.Kind) {
	for _, name := range names[:min(len(names), 2*len(directKinds))] {
		k, err := path.ParseKind(name)
		if err == nil && slices.Contains(directKinds, k) && !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	if len(names) == 0 {
		kinds = []path.Kind{path.DirectUDP}
	}
	return kinds
}

func (as *association) sealAgain(m *proto.Again, mine gathered) ([]byte, error) {
	key := as.Export()
	if key == nil {
		return nil, errors.New("the session has no keys yet")
	}
	signed, err := as.a.signCandidates(mine)
	if err != nil {
		return nil, err
	}
	m.Candidates = signed
	plain, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	token := as.PeerToken()
	return proto.Marshal(&proto.Opening{Body: &proto.Opening_Sealed{Sealed: &proto.Sealed{
		Token: token[:], Sealed: seal.SealMessage(*key, plain),
	}}})
}

// openAgain opens an Again of the peer. A coordinator can't serve one
// twice: each has candidates of another time.
func (as *association) openAgain(body []byte) (*proto.Again, offered, error) {
	var opening proto.Opening
	if err := proto.Unmarshal(body, &opening); err != nil {
		return nil, offered{}, err
	}
	key := as.Export()
	if key == nil {
		return nil, offered{}, errors.New("the session has no keys yet")
	}
	plain, err := seal.OpenMessage(*key, opening.GetSealed().GetSealed())
	if err != nil {
		return nil, offered{}, fmt.Errorf("%w (%w)", errForged, err)
	}
	var m proto.Again
	if err := proto.Unmarshal(plain, &m); err != nil {
		return nil, offered{}, err
	}
	theirs, err := as.a.readCandidates(m.GetCandidates(), as.peer.member())
	if err != nil {
		return nil, offered{}, err
	}
	if !as.unseen(theirs.made) {
		return nil, offered{}, errors.New("these candidates were seen before or are too old: a replay")
	}
	return &m, theirs, nil
}

// maxOffers is how many candidates' times are remembered against replays.
const maxOffers = 128

// unseen says whether candidates of that time did not come before. Several
// introductions may overtake each other, so newer alone would not do.
func (as *association) unseen(made time.Time) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	if slices.Contains(as.heard.made, made) || len(as.heard.made) == maxOffers && made.Before(as.heard.made[0]) {
		return false
	}
	as.heard.made = append(as.heard.made, made)
	slices.SortFunc(as.heard.made, time.Time.Compare)
	if len(as.heard.made) > maxOffers {
		as.heard.made = as.heard.made[1:]
	}
	return true
}
