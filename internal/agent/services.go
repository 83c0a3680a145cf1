package agent

import (
	"errors"
	"fmt"
)

// Expose offers a local service (Control).
func (a *Agent) Expose(name, url string) error {
	s, err := ParseService(name, url)
	if err != nil {
		return err
	}
	if other := a.publicTwice(s); other != "" {
		return fmt.Errorf("expose %s: the public port %d is %s's already; ask for another", s, s.Public, other)
	}
	if err := a.cfg.State.PutService(s); err != nil {
		return err
	}
	if err := a.services.Expose(s.Name, s.URL()); err != nil {
		return errors.Join(err, a.cfg.State.RemoveService(s.Name))
	}
	a.public.ask()
	return nil
}

// Unexpose withdraws it (Control).
func (a *Agent) Unexpose(name string) error {
	if err := a.services.Unexpose(name); err != nil {
		return err
	}
	a.public.ask()
	for _, p := range a.peers.all() {
		p.flows.Withdraw(name)
	}
	return a.cfg.State.RemoveService(name)
}

// publicTwice is the name of another service that has the public port of s.
func (a *Agent) publicTwice(s Service) string {
	for _, have := range a.services.List() {
		if s.Public != 0 && have.Public == s.Public && have.Scheme == s.Scheme && have.Name != s.Name {
			return have.Name
		}
	}
	return ""
}
