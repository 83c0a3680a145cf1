package rendezvous

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"rendezvous/internal/ops"
	"rendezvous/internal/sources"
	"rendezvous/internal/stripe"
)

// PublishRule says which ports members may open to clients without an agent,
// and what those clients may take. A zero limit takes its default.
type PublishRule struct {
	Key     string // the way to it in the configuration, for what CheckPublish says
	Ports   []stripe.Range
	Members []string // by name; none: all of them
	// NewClients that a port takes a second, and those from one IPv4 address or
	// /64 of IPv6. Ten seconds' worth may come at once.
	NewClients, NewClientsSource float64
	// MaxClients of a port at once, or connections of a TCP port.
	MaxClients int
	// Bytes and Datagrams a second, of a client and direction.
	Bytes, Datagrams float64
}

// Defaults of a PublishRule. A client takes about 2 KB.
const (
	defaultNewClients       = 200
	defaultNewClientsSource = 30 // a carrier's NAT may hide many
	defaultMaxClients       = 20000
)

func (r *PublishRule) withDefaults() PublishRule {
	out := *r
	out.NewClients = cmp.Or(r.NewClients, defaultNewClients)
	out.NewClientsSource = cmp.Or(r.NewClientsSource, defaultNewClientsSource)
	out.MaxClients = cmp.Or(r.MaxClients, defaultMaxClients)
	return out
}

// perSecond is a rate of n a second, of which ten seconds' worth may be saved.
func perSecond(n float64) sources.Rate {
	return sources.Rate{Every: time.Duration(float64(time.Second) / n), Burst: max(16, int(10*n))}
}

func (r *PublishRule) contains(port uint16) bool {
	return slices.ContainsFunc(r.Ports, func(p stripe.Range) bool { return p.Has(port) })
}

func (r *PublishRule) allows(member string) bool {
	return len(r.Members) == 0 || slices.Contains(r.Members, member)
}

// ownPort is a port that the coordinator itself is open on, and the setting
// that says so.
type ownPort struct {
	number uint16
	key    string
}

// ownPorts are those that are known before they are open.
func (c *Config) ownPorts() []ownPort {
	own := []ownPort{{c.Listen.Port(), "listen"}}
	if c.Alternate > 0 {
		own = append(own, ownPort{uint16(c.Alternate), "alternate_port"})
	}
	for _, n := range c.Ports {
		own = append(own, ownPort{n, "ports"})
	}
	return slices.DeleteFunc(own, func(o ownPort) bool { return o.number == 0 })
}

// CheckPublish finds all faults of the rules at once: what is no port or no
// name, ports that two rules or ranges name, and those that are the
// coordinator's own.
func (c *Config) CheckPublish() error {
	var faults []error
	own := c.ownPorts()
	var all []ruleRange
	for i := range c.Publish {
		rule := &c.Publish[i]
		faults = append(faults, rule.check()...)
		for _, r := range rule.Ports {
			for _, o := range own {
				if r.Has(o.number) {
					faults = append(faults, ops.Faultf(rule.key()+".ports", "%v holds %d, which the coordinator itself listens on (`%s`); leave it out", r, o.number, o.key))
				}
			}
			all = append(all, ruleRange{r, i})
		}
	}
	return errors.Join(append(faults, c.overlaps(all)...)...)
}

// ruleRange is a range of ports and the rule that has it.
type ruleRange struct {
	stripe.Range
	rule int
}

// overlaps are told at the later of two rules.
func (c *Config) overlaps(all []ruleRange) (faults []error) {
	slices.SortStableFunc(all, func(a, b ruleRange) int { return cmp.Compare(a.First, b.First) })
	for i, a := range all {
		for _, b := range all[i+1:] {
			if b.First > a.Last {
				break
			}
			faults = append(faults, ops.Faultf(c.Publish[max(a.rule, b.rule)].key()+".ports", "%v and %v have ports in common; name each port once", a, b))
		}
	}
	return faults
}

func (r *PublishRule) key() string { return cmp.Or(r.Key, "publish") }

func (r *PublishRule) check() (faults []error) {
	if len(r.Ports) == 0 {
		faults = append(faults, ops.Faultf(r.key(), "a rule without ports; name some, such as 51820 or 30000-30100"))
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			faults = append(faults, ops.Faultf(r.key()+".ports", "%v is no range of ports", p))
		}
	}
	for _, name := range r.Members {
		if !isName(name) {
			faults = append(faults, ops.Faultf(r.key()+".members", "%.80q is no name of an agent: %s; `rendezvous status` lists those there are", name, nameForm))
		}
	}
	for _, each := range []struct {
		name  string
		value float64
	}{
		{"new_clients_second", r.NewClients}, {"new_clients_second_source", r.NewClientsSource},
		{"max_clients", float64(r.MaxClients)}, {"megabits", r.Bytes}, {"datagrams_second", r.Datagrams},
	} {
		if each.value < 0 {
			faults = append(faults, ops.Faultf(r.key()+"."+each.name, "it is below 0; 0 takes the default"))
		}
	}
	return faults
}

// mayPublish gives the rule by which the member may have the port; its error
// says what the operator can do.
func (c *Config) mayPublish(member string, port uint16) (*PublishRule, error) {
	for i := range c.Publish {
		rule := &c.Publish[i]
		switch {
		case !rule.contains(port):
		case !rule.allows(member):
			return nil, fmt.Errorf("port %d is for other members here; the coordinator's operator can add %q to its rule under `publish:`", port, member)
		default:
			return rule, nil
		}
	}
	own := c.ownPorts()
	if i := slices.IndexFunc(own, func(o ownPort) bool { return o.number == port }); i >= 0 {
		return nil, fmt.Errorf("port %d is the coordinator's own (`%s`) and can't be a service's; %s", port, own[i].key, c.otherPorts(member))
	}
	if len(c.Publish) == 0 {
		return nil, fmt.Errorf("this coordinator opens no ports; its operator can allow it with `--publish %d` or `publish:` in the configuration", port)
	}
	return nil, fmt.Errorf("this coordinator opens no port %d; its operator can add it to --publish, or to `publish:` in the configuration", port)
}

// otherPorts says what to do where a port can't be had.
func (c *Config) otherPorts(member string) string {
	var open []stripe.Range
	for i := range c.Publish {
		if rule := &c.Publish[i]; rule.allows(member) {
			open = append(open, rule.Ports...)
		}
	}
	if len(open) == 0 {
		return "ask for another with ?public=PORT, which its operator can allow with --publish PORT or `publish:` in the configuration"
	}
	return fmt.Sprintf("ask for another with ?public=PORT; open to %q are %v", member, stripe.Of(open...))
}
