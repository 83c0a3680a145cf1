package agent

import "github.com/prometheus/client_golang/prometheus"

// Collector gives what Status shows as metrics.
type Collector struct {
	watcher     Watcher
	coordinator *prometheus.Desc
	path        *prometheus.Desc
	rtt         *prometheus.Desc
	loss        *prometheus.Desc
	bytes       *prometheus.Desc
	flows       *prometheus.Desc
	public      *prometheus.Desc
	punched     *prometheus.Desc
	forwarded   *prometheus.Desc
	dropped     *prometheus.Desc
}

// NewCollector is a collector of w's figures.
func NewCollector(w Watcher) *Collector {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("rendezvous_agent_"+name, help, labels, nil)
	}
	return &Collector{
		watcher:     w,
		coordinator: describe("coordinator_connected", "1 while the control connection stands."),
		path:        describe("peer_path", "1 for the kind of path that carries a peer's data.", "peer", "path"),
		rtt:         describe("peer_rtt_seconds", "Round trip of a peer's best path.", "peer"),
		loss:        describe("peer_loss_ratio", "Share of datagrams lost on a peer's best path.", "peer"),
		bytes:       describe("peer_bytes_total", "Bytes of services' datagrams, by direction.", "peer", "direction"),
		flows:       describe("flows", "Flows of a service or dial.", "kind", "name"),
		public:      describe("public_clients", "Clients without an agent, and legs that stand ready for more, of a service's public port.", "service", "state"),
		punched:     describe("punch_datagrams_total", "Datagrams that punches sent beyond probing candidates, and those of them that were refused by ICMP.", "what"),
		forwarded:   describe("fastpath_flows", "Raw flows that the kernel forwards by itself; absent where that was not asked for."),
		dropped:     describe("dropped_datagrams_total", "Datagrams that were dropped, by reason.", "reason"),
	}
}

// Describe is prometheus.Collector's.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.coordinator, c.path, c.rtt, c.loss, c.bytes, c.flows, c.public, c.punched, c.forwarded, c.dropped} {
		out <- d
	}
}

// Collect is prometheus.Collector's.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := c.watcher.Status()
	connected := 0.0
	if s.Coordinator.Connected {
		connected = 1
	}
	gauge(c.coordinator, connected)
	for _, p := range s.Peers {
		counter(c.bytes, p.TxBytes, p.Name, "sent")
		counter(c.bytes, p.RxBytes, p.Name, "received")
		if p.Path == "" {
			continue
		}
		gauge(c.path, 1, p.Name, p.Path)
		gauge(c.rtt, p.RTT/1000, p.Name)
		gauge(c.loss, p.Loss, p.Name)
	}
	for _, v := range s.Services {
		gauge(c.flows, float64(v.Flows), "service", v.Name)
		if v.Public != nil {
			gauge(c.public, float64(v.Public.Clients), v.Name, "served")
			gauge(c.public, float64(v.Public.Spares), v.Name, "spare")
		}
	}
	for _, d := range s.Dials {
		gauge(c.flows, float64(d.Flows), "dial", d.Peer+"/"+d.Service)
	}
	if s.Punch != nil {
		counter(c.punched, s.Punch.Sent, "sent")
		counter(c.punched, s.Punch.Refused, "refused")
	}
	if s.FastPath != nil {
		gauge(c.forwarded, float64(s.FastPath.Flows))
	}
	for reason, n := range s.Counters {
		counter(c.dropped, n, reason)
	}
}
