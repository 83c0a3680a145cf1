package main

import (
	"errors"
	"fmt"
	"strings"

	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/stripe"
)

// publishing is a rule of `publish:` in rendezvous.yaml. 0 is the default of a
// limit.
type publishing struct {
	Ports                  ops.List `yaml:"ports"`                     // "51820,30000-30100", or a list
	Members                ops.List `yaml:"members"`                   // who may; empty, or "all": every member
	NewClientsSecond       float64  `yaml:"new_clients_second"`        // of a port
	NewClientsSecondSource float64  `yaml:"new_clients_second_source"` // of one address, or one /64, at a port
	MaxClients             int      `yaml:"max_clients"`               // of a port, at once
	Megabits               float64  `yaml:"megabits"`                  // a second, of one client and direction
	DatagramsSecond        float64  `yaml:"datagrams_second"`          // likewise
}

// rules are publishings as values. Its error names what can't be read; what the
// values may be is for rendezvous.Config to say.
func rules(all []publishing) (out []rendezvous.PublishRule, err error) {
	var faults []error
	for i, p := range all {
		key := fmt.Sprintf("publish[%d]", i)
		ports, err := stripe.ParseRanges(strings.Join(p.Ports, ","))
		if err != nil {
			faults = append(faults, ops.FaultOf(key+".ports", err))
			if len(ports) == 0 {
				continue
			}
		}
		members := p.Members
		if len(members) == 1 && members[0] == "all" {
			members = nil
		}
		out = append(out, rendezvous.PublishRule{
			Key: key, Ports: ports, Members: members, NewClients: p.NewClientsSecond, NewClientsSource: p.NewClientsSecondSource,
			MaxClients: p.MaxClients, Bytes: p.Megabits * 1e6 / 8, Datagrams: p.DatagramsSecond,
		})
	}
	return out, errors.Join(faults...)
}

// checkPublish finds what is wrong with the rules, alone and beside the
// coordinator's own ports.
func (s *settings) checkPublish(p *parsed) error {
	var err error
	p.publish, err = rules(s.Publish)
	beside := rendezvous.Config{Listen: p.listen, Alternate: s.AlternatePort, Ports: p.ports, PortConfig: rendezvous.PortConfig{Publish: p.publish}}
	return errors.Join(err, beside.CheckPublish())
}
