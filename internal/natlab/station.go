package natlab

import "net/netip"

// station is what a host and a NAT have in common: a name and a link.
type station struct {
	lab        *Lab
	name       string
	attachment *attachment
}

func (s *station) title() string { return s.name }

func (s *station) attached() *attachment { return s.attachment }

// Name is the name given when it was attached.
func (s *station) Name() string { return s.name }

// Addr is its first address.
func (s *station) Addr() netip.Addr {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	return s.attachment.addrs[0].Addr()
}

// Set changes the link: its delay, loss and so on from now on.
func (s *station) Set(options ...Option) {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	c := setup{conditions: s.attachment.link.conditions}
	for _, o := range options {
		o(&c)
	}
	s.attachment.link.conditions = c.conditions
}

// Unplug pulls the link's cable: what is sent or on its way is dropped in
// silence.
func (s *station) Unplug() { s.plug(true) }

// Plug puts the cable back.
func (s *station) Plug() { s.plug(false) }

func (s *station) plug(cut bool) {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	s.attachment.link.cut = cut
}

// DropWhen drops what test says on the link, in both directions; nil ends it.
func (s *station) DropWhen(test Drop) {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	s.attachment.link.drop = test
}

// readdress gives the station new addresses in its segment.
func (s *station) readdress(addrs []string) {
	s.lab.t.Helper()
	prefixes := s.lab.mustPrefixes(s.name, addrs)
	a := s.attachment
	a.segment.leave(a)
	a.addrs = prefixes
	a.segment.join(a)
}
