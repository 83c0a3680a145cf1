package agent

import (
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/session"
)

// LoadConfig reads agent.yaml over the defaults. An unknown key is a fault. The
// error is an ops.UsageError with every fault of the file and its line.
func LoadConfig(file string) (Config, error) {
	c := DefaultConfig()
	form := configForm{
		Flows:     flowsForm{durationForm(c.Flows.Unanswered), durationForm(c.Flows.Answered), c.Flows.Max},
		Public:    publicForm{c.Public.Spares, durationForm(c.Public.Idle), durationForm(c.Public.Keepalive), c.Public.MaxClients},
		Keepalive: durationForm(c.Keepalive),
		Degraded:  degradedForm{100 * c.Degraded.Loss, durationForm(c.Degraded.RTT)},
		FakeTCP:   fakeTCPForm{c.Disguise.Window, c.Disguise.Packed, c.Disguise.PerPeer},
		Speed:     speedForm{c.Offload, c.FastPath},
		Opening:   openingForm{c.Portmap, punchForm{c.Punch.Budget.PerSecond, c.Punch.Budget.PerTarget, c.Punch.Budget.PerAttempt, c.Punch.Spray}},
		Tell:      tellForm{Log: c.LogLevel},
	}
	source, err := ops.ReadConfig(file, &form)
	if err != nil {
		return Config{}, err
	}
	c.Name, c.Metrics, c.LogLevel = form.Name, form.Tell.Metrics, form.Tell.Log
	c.Expose, c.Dial, c.Paths, c.Ports = form.Expose, form.Dial, form.Paths, form.Ports
	c.Flows = FlowLimits{time.Duration(form.Flows.Unanswered), time.Duration(form.Flows.Answered), form.Flows.Max}
	c.Public = PublicLimits{form.Public.Spares, time.Duration(form.Public.Idle), time.Duration(form.Public.Keepalive), form.Public.MaxClients}
	c.Keepalive = time.Duration(form.Keepalive)
	c.Degraded = session.Thresholds{Loss: form.Degraded.Loss / 100, RTT: time.Duration(form.Degraded.RTT)}
	c.Disguise.Window, c.Disguise.Packed, c.Disguise.PerPeer = form.FakeTCP.Window, form.FakeTCP.Packed, form.FakeTCP.MaxPerPeer
	c.Speed = Speed{form.Speed.Offload, form.Speed.FastPath}
	c.Portmap, c.Ignore = form.Opening.Portmap, form.Interfaces.Ignore
	p := form.Opening.Punch
	c.Punch = Punch{punch.Budget{PerSecond: p.PerSecond, PerTarget: p.PerTarget, PerAttempt: p.PerAttempt}, p.Spray}
	if err := source.Check(c.Check()); err != nil {
		return Config{}, err
	}
	return c, nil
}

// configForm is agent.yaml.
type configForm struct {
	Name       string         `yaml:"name"`
	Expose     exposeForm     `yaml:"expose"`
	Dial       dialForm       `yaml:"dial"`
	Paths      pathsForm      `yaml:"paths"`
	Ports      []uint16       `yaml:"ports"`
	Flows      flowsForm      `yaml:"flows"`
	Public     publicForm     `yaml:"public"`
	Keepalive  durationForm   `yaml:"keepalive"`
	Degraded   degradedForm   `yaml:"degraded"`
	FakeTCP    fakeTCPForm    `yaml:"faketcp"`
	Speed      speedForm      `yaml:",inline"`
	Interfaces interfacesForm `yaml:"interfaces"`
	Opening    openingForm    `yaml:",inline"`
	Tell       tellForm       `yaml:",inline"`
}

// speedForm is what the kernel may do for us.
type speedForm struct {
	Offload  bool `yaml:"offload"`
	FastPath bool `yaml:"fastpath"`
}

// openingForm is how ways through NATs are made.
type openingForm struct {
	Portmap bool      `yaml:"portmap"`
	Punch   punchForm `yaml:"punch"`
}

// punchForm bounds what punches send, in datagrams.
type punchForm struct {
	PerSecond  int  `yaml:"per_second"`
	PerTarget  int  `yaml:"per_target"`
	PerAttempt int  `yaml:"per_attempt"`
	Spray      bool `yaml:"spray"`
}

// tellForm is what the agent tells those who run it.
type tellForm struct {
	Metrics string `yaml:"metrics"`
	Log     string `yaml:"log"`
}

type flowsForm struct {
	Unanswered durationForm `yaml:"unanswered"`
	Answered   durationForm `yaml:"answered"`
	Max        int          `yaml:"max"`
}

type publicForm struct {
	Spares     int          `yaml:"spares"`
	Idle       durationForm `yaml:"idle"`
	Keepalive  durationForm `yaml:"keepalive"`
	MaxClients int          `yaml:"max_clients"`
}

// degradedForm says from when on a path is bad.
type degradedForm struct {
	Loss float64      `yaml:"loss"` // percent
	RTT  durationForm `yaml:"rtt"`
}

// fakeTCPForm says how fake TCP looks; 0 is the default of each.
type fakeTCPForm struct {
	Window     uint16 `yaml:"window"`       // of every segment, before scaling
	Packed     bool   `yaml:"packed"`       // datagrams may begin in fields of the header
	MaxPerPeer int    `yaml:"max_per_peer"` // flows with one address
}

type interfacesForm struct {
	Ignore []string `yaml:"ignore"`
}

// unjoin is what was joined into err.
func unjoin(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &joined):
		return joined.Unwrap()
	}
	return []error{err}
}

// faults collects what is wrong in one value, in the form in which the YAML
// library goes on and reports all at once.
type faults struct{ list []string }

func (f *faults) add(n *yaml.Node, err error) {
	for _, e := range unjoin(err) {
		f.list = append(f.list, fmt.Sprintf("line %d: %s", n.Line, e))
	}
}

func (f *faults) addf(n *yaml.Node, format string, args ...any) {
	f.add(n, fmt.Errorf(format, args...))
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return &yaml.TypeError{Errors: f.list}
}

// exposeForm is {wg: URL}, or [{name: wg, url: URL}].
type exposeForm []Service

// UnmarshalYAML reads either form.
func (e *exposeForm) UnmarshalYAML(n *yaml.Node) error {
	var f faults
	add := func(at *yaml.Node, name, url string) {
		s, err := ParseService(name, url)
		if err != nil {
			f.add(at, err)
			return
		}
		*e = append(*e, s)
	}
	if n.Kind != yaml.SequenceNode {
		f.pairs(n, "expose", func(k, v *yaml.Node) { add(k, k.Value, v.Value) })
		return f.err()
	}
	for _, item := range n.Content {
		given := make(map[string]string)
		f.pairs(item, "a service of expose", func(k, v *yaml.Node) {
			if k.Value != "name" && k.Value != "url" {
				f.addf(k, "unknown key %q; known here: name, url", k.Value)
			}
			given[k.Value] = v.Value
		})
		if item.Kind == yaml.MappingNode {
			add(item, given["name"], given["url"])
		}
	}
	return f.err()
}

// dialForm is {home/wg: URL}.
type dialForm []Dial

// UnmarshalYAML reads the form.
func (d *dialForm) UnmarshalYAML(n *yaml.Node) error {
	var f faults
	f.pairs(n, "dial", func(k, v *yaml.Node) {
		peer, service, err := ParseTarget(k.Value)
		if err != nil {
			f.add(k, err)
			return
		}
		one, err := ParseDial(peer, service, v.Value)
		if err != nil {
			f.add(k, err)
			return
		}
		*d = append(*d, one)
	})
	return f.err()
}

// pairs calls each for every key of a mapping, in their order, and finds keys
// that stand there twice and values that are more than one word.
func (f *faults) pairs(n *yaml.Node, what string, each func(k, v *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		f.addf(n, "%s must be lines of KEY: VALUE", what)
		return
	}
	first := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch line, twice := first[k.Value]; {
		case twice:
			f.addf(k, "%q stands here a second time, first in line %d", k.Value, line)
		case v.Kind != yaml.ScalarNode:
			f.addf(v, "%s: one value is wanted here", k.Value)
		default:
			each(k, v)
		}
		first[k.Value] = k.Line
	}
}

// pathsForm is [direct-udp, relay-udp].
type pathsForm []path.Kind

// UnmarshalYAML reads the form.
func (p *pathsForm) UnmarshalYAML(n *yaml.Node) error {
	var f faults
	if n.Kind != yaml.SequenceNode {
		f.addf(n, "paths must be a list, as in [direct-udp, relay-udp]")
		return f.err()
	}
	for _, item := range n.Content {
		k, err := path.ParseKind(item.Value)
		if err != nil {
			f.add(item, err)
			continue
		}
		*p = append(*p, k)
	}
	return f.err()
}

// durationForm is 60s or 3m.
type durationForm time.Duration

// UnmarshalYAML reads the form.
func (d *durationForm) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		var f faults
		f.addf(n, "%q is not a duration like 60s or 3m", n.Value)
		return f.err()
	}
	*d = durationForm(v)
	return nil
}
