package forward

import (
	"errors"
	"fmt"

	"rendezvous/internal/path"
)

// udpKinds are the kinds of path that a raw flow's own 5-tuple may make.
var udpKinds = path.KindsOf(path.DirectUDP, path.RelayUDP)

// rule is the kinds of path that may carry the flow's datagrams, empty for all.
func (f *flow) rule() path.Kinds { return path.Kinds(f.only.Load()) }

func (f *flow) obey(only path.Kinds) { f.only.Store(uint32(only)) }

// overUDP says whether the flow may have a 5-tuple of its own.
func (f *flow) overUDP() bool {
	only := f.rule()
	return only == 0 || only&udpKinds != 0
}

// rule is that of the dial and the service's own, as far as it is known: the
// first flow of a dial learns it with the peer's first answer. Flows.mu is held.
func (d *Dial) rule() path.Kinds {
	if both, ok := d.only.Narrow(d.told); ok {
		return both
	}
	return d.only // the peer refuses such a flow
}

// allow is the rule of a flow to the service whose dialing side allows the
// named kinds; the error says why there is no path that both allow.
func (s *service) allow(names []string) (path.Kinds, error) {
	theirs, err := ruleOf(names)
	if err != nil {
		return 0, err
	}
	both, ok := s.target.Only.Narrow(theirs)
	if !ok {
		return 0, fmt.Errorf("service %q allows the paths %v alone, and who dialed it %v: they have none in common", s.name, s.target.Only, theirs)
	}
	return both, nil
}

var errUnknownKinds = errors.New("it allows only kinds of path that are not known here; is this agent older than the peer's?")

// ruleOf reads a rule of the peer's. Kinds that this version does not know are
// left out; the error says that no other is left.
func ruleOf(names []string) (only path.Kinds, err error) {
	for _, name := range names[:min(len(names), 2*int(path.RelayTLS))] {
		if k, err := path.ParseKind(name); err == nil {
			only |= path.KindsOf(k)
		}
	}
	if len(names) > 0 && only == 0 {
		return 0, errUnknownKinds
	}
	return only, nil
}
