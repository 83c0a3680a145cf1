package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden compares got with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s\n(go test ./cmd/agent -rewrite writes it anew)", name, got, want)
	}
}

var now = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

func TestStatusGolden(t *testing.T) {
	tests := map[string]agent.Status{
		"status": {
			Name: "laptop", PID: 412, Version: "v1.0.0", Fingerprint: "k7qy-3mfa-x2ce-p5wd",
			Coordinator: agent.CoordinatorStatus{Connected: true, Transport: "quic", Addr: "203.0.113.10:443", RTT: 40.2},
			Services: []agent.ServiceStatus{
				{Name: "wg", URL: "udp://127.0.0.1:51820?raw&public=51820", Flows: 1, Public: &agent.PublicStatus{Port: 51820, State: agent.PublicOpen,
					Addrs: []string{"203.0.113.10:51820", "[2001:db8::10]:51820"}, Clients: 3, Spares: 4, Total: 17}},
				{Name: "mute", URL: "udp://127.0.0.1:9?public=9", Public: &agent.PublicStatus{Port: 9, State: agent.PublicOpen,
					Addrs: []string{"203.0.113.10:9"}, Clients: 2, Unanswered: 2, Spares: 4, Total: 2}},
				{Name: "web", URL: "tcp://127.0.0.1:80?public=80", Public: &agent.PublicStatus{Port: 80, State: agent.PublicOpen,
					Addrs: []string{"203.0.113.10:80"}, Clients: 1, Total: 2}},
				{Name: "dns", URL: "udp://[::1]:53?paths=relay-tls", Paths: []string{"relay-tls"}},
				{Name: "sip", URL: "udp://127.0.0.1:5060?public=22", Public: &agent.PublicStatus{Port: 22, State: agent.PublicRefused, Reason: "port 22 is not among those that may be published"}},
				{Name: "rtp", URL: "udp://127.0.0.1:5062?public=5062", Public: &agent.PublicStatus{Port: 5062, State: agent.PublicWaiting}},
			},
			Dials: []agent.DialStatus{
				{Peer: "home", Service: "wg", Listen: "udp://127.0.0.1:51821", Flows: 12},
				{Peer: "office", Service: "game", Listen: "udp://0.0.0.0:7777", Error: "office is offline"},
				{Peer: "office", Service: "sip", Listen: "udp://127.0.0.1:5060", Paths: []string{"direct-faketcp", "relay-faketcp"}},
			},
			Peers: []agent.PeerStatus{
				{
					Name: "home", Path: "direct-udp", Local: "192.168.2.2:40112", Remote: "198.51.100.2:40112", RTT: 41.04, Loss: 0.002,
					ServiceMTU: 1452, Since: now.Add(-26 * time.Hour), TxBytes: 999, RxBytes: 12_345_678,
					Paths: []agent.PathStatus{
						{Path: "direct-udp", State: agent.PathBest, Remote: "198.51.100.2:40112", RTT: 41.04},
						{Path: "relay-udp", State: agent.PathSpare, Remote: "203.0.113.10:443", RTT: 80.1},
						{Path: "direct-udp", State: agent.PathTrying},
					},
				},
				{Name: "office", Paths: []agent.PathStatus{{Path: "relay-udp", State: agent.PathFailed, Remote: "203.0.113.10:443"}}},
			},
			Punch:    &agent.PunchStatus{PerSecond: 500, PerTarget: 2000, PerAttempt: 300, Sent: 612, Cut: 2, Refused: 31},
			Counters: map[string]uint64{"replayed": 3, "malformed": 120},
		},
		"status-waiting": {
			Name: "laptop", PID: 412, Version: "v1.0.0", Fingerprint: "k7qy-3mfa-x2ce-p5wd",
			Waiting:     "a member must admit this agent: `agent approve laptop`",
			Coordinator: agent.CoordinatorStatus{Addr: "203.0.113.10:443", Error: "dial coordinator 203.0.113.10:443 over UDP: no answer"},
		},
	}
	for name, s := range tests {
		var out bytes.Buffer
		writeStatus(&out, s, now)
		golden(t, name, out.String())
	}
}

func TestExplainGolden(t *testing.T) {
	tests := map[string]agent.Explain{
		"explain": {
			Peer: "home", Path: "relay-udp",
			Attempts: []agent.Attempt{
				{Path: "direct-udp", Result: agent.ResultFailed, Reason: "no-answer", Evidence: "24 probes to 198.51.100.2:40112, 198.51.100.2:40113; nothing came back",
					Advice: "both NATs choose a new port for each destination; forward a UDP port on one of them", Started: now, MS: 2000, Side: agent.SideLocal},
				{Path: "direct-udp", Result: agent.ResultFailed, Reason: "no-answer", Evidence: "26 probes", Started: now.Add(30 * time.Millisecond), MS: 2000, Side: agent.SideRemote},
				{Path: "relay-udp", Result: agent.ResultOK, Started: now, MS: 81, Side: agent.SideLocal},
				{Path: "direct-tcp", Result: agent.ResultSkipped, Reason: "not-allowed", Started: now, Side: agent.SideLocal},
			},
		},
		"explain-nothing": {Peer: "home"},
	}
	for name, e := range tests {
		var out bytes.Buffer
		writeExplain(&out, e)
		golden(t, name, out.String())
	}
}

func TestNetcheckGolden(t *testing.T) {
	tests := map[string]agent.Netcheck{
		"netcheck": {
			UDP: true, IPv4: true, Mapped: []string{"198.51.100.2:40112"}, Mapping: "endpoint-independent",
			Filtering: "unknown", FilteringNot: []string{"endpoint-independent"}, PortPreserving: true, UsablePorts: []int{443, 3478},
			Routers: []agent.RouterStatus{{Gateway: "192.168.1.1", Protocols: []string{"pcp", "upnp"}, External: "198.51.100.2",
				Mappings: []agent.MappingStatus{{Protocol: "pcp", External: "198.51.100.2:40113"}}}},
		},
		"netcheck-blocked": {Mapping: "unknown", Filtering: "unknown"},
	}
	for name, n := range tests {
		var out bytes.Buffer
		writeNetcheck(&out, n)
		golden(t, name, out.String())
	}
}

func TestFindingsGolden(t *testing.T) {
	var out bytes.Buffer
	broken := writeFindings(&out, []finding{
		{"state folder", good, "/var/lib/rendezvous-agent can be read and written", ""},
		{"receive buffer", poor, "net.core.rmem_max is 212992 of 4194304 wanted: fast bursts may be lost", "sysctl -w net.core.rmem_max=4194304"},
		{"clock", bad, "it says 1970-01-01 00:00:00, which is past", "timedatectl set-ntp true"},
	})
	if broken != 1 {
		t.Errorf("%d are bad", broken)
	}
	golden(t, "doctor", out.String())
}

func TestWireGuardMTU(t *testing.T) {
	for service, want := range map[int]string{
		0: "-", 1452: "1420", 1472: "1440", 1312: "1280", 1311: "1279 (IPv4 only)", 608: "576 (IPv4 only)", 607: "none fits 607",
	} {
		if got := wireGuardMTU(service); got != want {
			t.Errorf("%d: %s, want %s", service, got, want)
		}
	}
}

func TestSizesAndTimes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9940: "9.9 kB", 9960: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB", 1 << 63: "9.2 EB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0s ago", 59 * time.Second: "59s ago", 61 * time.Second: "1m01s ago", 3 * time.Hour: "3h00m ago", 50 * time.Hour: "2d ago",
	} {
		if got := ago(now, now.Add(-d)); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestDefaultName(t *testing.T) {
	for host, want := range map[string]string{
		"Home": "home", "laptop.example.org": "laptop", "my_host!": "my-host", "": "agent", "...": "agent", "-x-": "x",
		strings.Repeat("a", 80): strings.Repeat("a", 63), strings.Repeat("ä", 80) + "b": "agent",
	} {
		if got := defaultName(host, nil); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
		if err := agent.CheckName("agent's", defaultName(host, nil)); err != nil {
			t.Error(err)
		}
	}
	if got := defaultName("x", errors.New("no name")); got != "agent" {
		t.Errorf("without a host name: %q", got)
	}
}

func TestSplitServer(t *testing.T) {
	for name, want := range map[string]string{
		"stun.example.org": "stun.example.org 3478", "stun.example.org:19302": "stun.example.org 19302",
		"192.0.2.1": "192.0.2.1 3478", "2001:db8::1": "2001:db8::1 3478", "[2001:db8::1]": "2001:db8::1 3478", "[2001:db8::1]:5": "2001:db8::1 5",
	} {
		host, port, err := splitServer(name)
		if err != nil || fmt.Sprintf("%s %d", host, port) != want {
			t.Errorf("%s: %s %d %v", name, host, port, err)
		}
	}
	for _, name := range []string{"", ":1", "h:", "h:0", "h:65536", "stun://h", "a:b:c"} {
		if host, _, err := splitServer(name); ops.ExitCode(err) != ops.ExitUsage {
			t.Errorf("%q is taken as %q, %v", name, host, err)
		}
	}
}

type fakePings []agent.PingLine

func (f *fakePings) Ping(context.Context, string) (agent.PingLine, error) {
	line := (*f)[0]
	*f = (*f)[1:]
	return line, nil
}

func TestPingSummary(t *testing.T) {
	answered := agent.PingLine{Peer: "home", Path: "direct-udp", Remote: "198.51.100.2:40112", RTT: 41}
	lost := agent.PingLine{Peer: "home", Error: "no answer in 3s"}
	tests := []struct {
		name  string
		lines fakePings
		json  bool
		want  string
		code  int
	}{
		{"one", fakePings{answered}, false, "home: direct-udp 198.51.100.2:40112 41.0 ms\n", ops.ExitDone},
		{"json", fakePings{answered}, true, `{"peer":"home","path":"direct-udp","remote":"198.51.100.2:40112","rtt_ms":41}` + "\n", ops.ExitDone},
		{"none", fakePings{lost}, false, "home: no answer in 3s\n", ops.ExitFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			p := pinger{client: &tt.lines, peer: "home", out: &out, json: tt.json}
			if err := p.run(t.Context(), len(tt.lines)); err != nil {
				t.Fatal(err)
			}
			if code := ops.ExitCode(p.end()); code != tt.code || out.String() != tt.want {
				t.Errorf("exit %d, %q", code, out.String())
			}
		})
	}
}

func TestNetcheckWithoutUDPGolden(t *testing.T) {
	blocked := agent.Netcheck{
		IPv4: true, Mapping: "unknown", Filtering: "unknown", TCPMapping: "endpoint-independent",
		TCPPorts: []int{80, 443}, FakeTCPPorts: []int{443}, TLS: true, FakeTCP: "ok", Middlebox: []string{"sequence-rewriting", "mss-clamping"},
	}
	plain := blocked
	plain.FakeTCP, plain.FakeTCPPorts, plain.Middlebox, plain.Via = "unprivileged", nil, nil, "proxy.example:3128"
	for name, n := range map[string]agent.Netcheck{"netcheck-faketcp": blocked, "netcheck-tcp": plain} {
		var out bytes.Buffer
		writeNetcheck(&out, n)
		golden(t, name, out.String())
	}
}

func TestCoordinatorLine(t *testing.T) {
	for want, c := range map[string]agent.CoordinatorStatus{
		"h:443 over quic, 40.2 ms":                        {Connected: true, Addr: "h:443", Transport: "quic", Over: "udp", RTT: 40.2},
		"h:443 over quic in fake TCP":                     {Connected: true, Addr: "h:443", Transport: "quic", Over: "faketcp"},
		"h:443 over tls via proxy p.example:3128, 1.0 ms": {Connected: true, Addr: "h:443", Transport: "tls", Over: "tcp", Via: "p.example:3128", RTT: 1},
		"h:53 over quic, 1.0 ms; relay legs to port 53":   {Connected: true, Addr: "h:53", Transport: "quic", Over: "udp", RTT: 1, RelayPort: 53},
		"h:443 over quic, 1.0 ms; relay legs to port 5060 (answered on 5060: 40 of 40, 1.0 ms; 443: 0 of 120)": {
			Connected: true, Addr: "h:443", Transport: "quic", RTT: 1, RelayPort: 5060,
			Ports: []agent.PortStatus{{Port: 5060, Sent: 40, Answered: 40, RTT: 1}, {Port: 443, Sent: 120}},
		},
		"h:443: not connected yet": {Addr: "h:443"},
	} {
		if got := coordinatorLine(c); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestExplainRepeats(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2026, 3, 1, 12, 0, second, 0, time.UTC) }
	failed := func(second int, reason string) agent.Attempt {
		return agent.Attempt{Path: "direct-udp", Result: agent.ResultFailed, Reason: reason, Started: at(second), Side: agent.SideLocal}
	}
	var out strings.Builder
	writeExplain(&out, agent.Explain{Peer: "home", Attempts: []agent.Attempt{failed(1, "blocked"), failed(2, "no-answer"), failed(3, "blocked")}})
	want := "home: no path now\n\ntried here\n  12:00:02  direct-udp failed: no-answer\n  12:00:03  direct-udp failed: blocked, 2 times since 12:00:01\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestFastPathLine(t *testing.T) {
	for want, f := range map[string]agent.FastPathStatus{
		"the kernel forwards 2 raw flows":                      {Flows: 2},
		"the kernel forwards 1 raw flows; not all: it is IPv6": {Flows: 1, Error: "it is IPv6"},
		"the agent forwards all itself: it takes root":         {Error: "it takes root"},
	} {
		if got := fastPathLine(&f); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
