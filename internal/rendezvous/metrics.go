package rendezvous

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("rendezvous_"+name, help, labels, nil)
}

// descriptions of what a Server tells Prometheus.
type descriptions struct {
	online, connections, introductions, waiting   *prometheus.Desc
	allocations, relayBytes, relayDatagrams, stun *prometheus.Desc
	drops, doors, tlsLegs, splices                *prometheus.Desc
	public                                        publicDescriptions
}

// publicDescriptions are those of public ports.
type publicDescriptions struct{ clients, total, ready, drops *prometheus.Desc }

func describePublic() publicDescriptions {
	return publicDescriptions{
		clients: describe("public_clients", "Clients of a public port now, connections where it is TCP.", "port", "transport"),
		total:   describe("public_clients_total", "Clients that a public port has had since it was opened.", "port", "transport"),
		ready:   describe("public_spares", "Legs of a public port that stand ready for new clients.", "port", "transport"),
		drops:   describe("public_drops_total", "What a public port dropped, by reason.", "port", "transport", "reason"),
	}
}

// collector gives a Server's counters to Prometheus when it asks.
type collector struct {
	server *Server
	d      descriptions
}

// Collector is the server's figures for a registry of metrics.
func (s *Server) Collector() prometheus.Collector {
	return &collector{server: s, d: descriptions{
		online:         describe("agents_online", "Agents that are registered now."),
		connections:    describe("connections", "Control connections that are open now, of agents and strangers."),
		introductions:  describe("introductions_total", "Introductions by how they ended.", "result"),
		waiting:        describe("introductions_waiting", "Introductions that wait for an answer now."),
		allocations:    describe("relay_allocations", "Relay allocations that live now."),
		relayBytes:     describe("relay_bytes_total", "Bytes of payload that the relay forwarded."),
		relayDatagrams: describe("relay_datagrams_total", "Datagrams that the relay forwarded."),
		stun:           describe("stun_total", "STUN datagrams by what became of them.", "result"),
		doors:          describe("listening", "1 for an address that is listened on over a transport, 0 where that was not to be had.", "transport", "addr"),
		tlsLegs:        describe("relay_tls_legs", "Relay legs over TLS that are open now."),
		splices:        describe("relay_splices", "Streams of bytes between two relay legs over TLS that are open now."),
		drops:          describe("drops_total", "What was not served, by reason.", "reason"),
		public:         describePublic(),
	}}
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect is prometheus.Collector's.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	connections, relay, stun, drops := c.server.counters()
	in := c.server.introductions.stats()
	gauge(c.d.online, float64(len(c.server.present.all())))
	gauge(c.d.connections, float64(connections))
	gauge(c.d.waiting, float64(in.Waiting))
	for result, n := range map[string]uint64{
		"made": in.Made, "answered": in.Answered, "declined": in.Declined, "expired": in.Expired, "refused": in.Refused,
	} {
		count(c.d.introductions, n, result)
	}
	gauge(c.d.allocations, float64(relay.Allocations))
	gauge(c.d.tlsLegs, float64(c.server.front.legs.Load()))
	gauge(c.d.splices, float64(c.server.front.splices.status().Open))
	for _, d := range c.server.doorStatus() {
		open := 1.0
		if d.Problem != "" {
			open = 0
		}
		gauge(c.d.doors, open, d.Transport, d.Addr)
	}
	for _, p := range c.server.public.status() {
		at := []string{strconv.Itoa(int(p.Port)), p.Transport}
		gauge(c.d.public.clients, float64(p.Clients), at...)
		gauge(c.d.public.ready, float64(p.Ready), at...)
		count(c.d.public.total, p.Total, at...)
		for reason, n := range p.Drops {
			count(c.d.public.drops, n, append(at, reason)...)
		}
	}
	count(c.d.relayBytes, relay.Bytes)
	count(c.d.relayDatagrams, relay.Datagrams)
	for result, n := range stun {
		count(c.d.stun, n, result)
	}
	for reason, n := range drops {
		count(c.d.drops, n, reason)
	}
}
