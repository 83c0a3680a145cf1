package agent

import "rendezvous/proto"

// Part ends the session with a peer and its flows, and forgets what was tried
// to reach it: the next one begins as if the two had never met, but for the
// peer's record. Without such a peer it does nothing.
func (a *Agent) Part(name, why string) {
	a.peers.mu.Lock()
	p := a.peers.byName[name]
	delete(a.peers.byName, name)
	a.peers.mu.Unlock()
	if p == nil {
		return
	}
	p.tcp.close() // while there is a session to tell it over
	if as := p.association(); as != nil {
		as.SendFrame(&proto.Frame{Body: &proto.Frame_Bye{Bye: &proto.Bye{Reason: why}}})
		p.drop(as)
	}
	p.closeRaws()
	p.flows.Close()
}
