package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/forward"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/ops"
)

// fakeDaemon remembers what it was told.
type fakeDaemon struct {
	status  Status
	explain Explain
	ping    func(ctx context.Context) (PingLine, error)
	err     error

	mu    sync.Mutex
	calls []string
}

func (f *fakeDaemon) did(words ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, strings.Join(words, " "))
	return f.err
}

func (f *fakeDaemon) Status() Status { return f.status }
func (f *fakeDaemon) Ping(ctx context.Context, peer string) (PingLine, error) {
	if f.ping != nil {
		return f.ping(ctx)
	}
	return PingLine{Path: "direct-udp", Remote: "198.51.100.2:40112", RTT: 41}, f.did("ping", peer)
}
func (f *fakeDaemon) Explain(_ context.Context, peer string) (Explain, error) {
	return f.explain, f.did("explain", peer)
}
func (f *fakeDaemon) Expose(name, url string) error        { return f.did("expose", name, url) }
func (f *fakeDaemon) Unexpose(name string) error           { return f.did("unexpose", name) }
func (f *fakeDaemon) Dial(peer, service, url string) error { return f.did("dial", peer, service, url) }
func (f *fakeDaemon) Hangup(peer, service, url string) error {
	return f.did("hangup", peer, service, url)
}
func (f *fakeDaemon) Invite(_ context.Context, expires time.Duration) (string, error) {
	return "rdv://vps:443/#x.y", f.did("invite", expires.String())
}
func (f *fakeDaemon) Pending(context.Context) ([]PendingMember, error) {
	return []PendingMember{{Name: "laptop", Fingerprint: "k7qy"}}, f.did("pending")
}
func (f *fakeDaemon) Approve(_ context.Context, name, fingerprint string) error {
	return f.did("approve", name, fingerprint)
}
func (f *fakeDaemon) Revoke(_ context.Context, name string) error { return f.did("revoke", name) }

// serveFake runs d behind a real control socket.
func serveFake(t *testing.T, d Daemon) *Client {
	t.Helper()
	dir := t.TempDir()
	control, err := ops.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, NewHandler(d)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return NewClient(dir)
}

func TestAPICrossesTheSocket(t *testing.T) {
	d := &fakeDaemon{}
	c := serveFake(t, d)
	ctx := t.Context()
	service := Service{Name: "wg", Target: forward.Target{Scheme: "udp", Host: "127.0.0.1", Port: 51820, Raw: true}}
	dial := Dial{Peer: "home", Service: "wg", Host: "127.0.0.1", Port: 51821}
	for _, err := range []error{
		c.Expose(ctx, service),
		c.Unexpose(ctx, "wg"),
		c.Dial(ctx, dial),
		c.Hangup(ctx, "home", "wg", dial.URL()),
		c.Approve(ctx, "laptop", "k7qy"),
		c.Revoke(ctx, "laptop"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if link, err := c.Invite(ctx, time.Hour); err != nil || link != "rdv://vps:443/#x.y" {
		t.Errorf("invite: %q, %v", link, err)
	}
	if list, err := c.Pending(ctx); err != nil || len(list) != 1 || list[0].Name != "laptop" || list[0].Fingerprint != "k7qy" {
		t.Errorf("pending: %v, %v", list, err)
	}
	if line, err := c.Ping(ctx, "home"); err != nil || line != (PingLine{Peer: "home", Path: "direct-udp", Remote: "198.51.100.2:40112", RTT: 41}) {
		t.Errorf("ping: %+v, %v", line, err)
	}
	if _, err := c.Explain(ctx, "home"); err != nil {
		t.Error(err)
	}
	want := []string{
		"expose wg udp://127.0.0.1:51820?raw", "unexpose wg", "dial home wg udp://127.0.0.1:51821", "hangup home wg udp://127.0.0.1:51821",
		"approve laptop k7qy", "revoke laptop", "invite 1h0m0s", "pending", "ping home", "explain home",
	}
	if !reflect.DeepEqual(d.calls, want) {
		t.Errorf("got  %q\nwant %q", d.calls, want)
	}
}

func TestAPIErrors(t *testing.T) {
	d := &fakeDaemon{err: errors.New("home is offline; is its agent up?")}
	c := serveFake(t, d)
	ctx := t.Context()
	if err := c.Hangup(ctx, "home", "wg", ""); err == nil || err.Error() != d.err.Error() || ops.ExitCode(err) != ops.ExitFailed {
		t.Errorf("hangup: %v", err)
	}
	// A ping that fails is a line of its own, so that -c goes on.
	if line, err := c.Ping(ctx, "home"); err != nil || line != (PingLine{Peer: "home", Error: d.err.Error()}) {
		t.Errorf("ping: %+v, %v", line, err)
	}
	for what, err := range map[string]error{
		"peer's name":    func() error { _, err := c.Ping(ctx, "No!"); return err }(),
		"service's name": c.Expose(ctx, Service{Name: "No!", Target: forward.Target{Scheme: "udp", Host: "h", Port: 1}}),
		"dial's peer":    c.Dial(ctx, Dial{Peer: "", Service: "wg", Host: "h", Port: 1}),
	} {
		if ops.ExitCode(err) != ops.ExitUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := NewClient(t.TempDir()).Status(ctx); ops.ExitCode(err) != ops.ExitNoDaemon {
		t.Errorf("no daemon: %v", err)
	}
}

func TestPingGivesUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		d := &fakeDaemon{ping: func(ctx context.Context) (PingLine, error) {
			<-ctx.Done()
			return PingLine{}, ctx.Err()
		}}
		began := time.Now()
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, apiPing, strings.NewReader(`{"peer":"home"}`))
		NewHandler(d).ServeHTTP(w, r)
		var line PingLine
		if err := json.NewDecoder(w.Body).Decode(&line); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != pingWait || line.Error != "no answer in 10s; see `agent explain home`" {
			t.Errorf("after %s: %+v", took, line)
		}
	})
}

// The keys that scripts rely on, and that no list is null.
func TestStatusJSON(t *testing.T) {
	zone := time.FixedZone("", 3600)
	d := &fakeDaemon{
		status: Status{
			Name: "laptop", PID: 412, Version: "v1",
			Coordinator: CoordinatorStatus{Connected: true, Transport: "quic", Addr: "203.0.113.10:443", RTT: 40.2},
			Peers: []PeerStatus{{
				Name: "home", Path: "direct-udp", Local: "192.168.2.2:40112", Remote: "198.51.100.2:40112", RTT: 41,
				ServiceMTU: 1452, Since: time.Date(2026, 1, 2, 16, 4, 5, 999, zone),
			}, {Name: "away"}},
		},
		explain: Explain{Peer: "home"},
	}
	c := serveFake(t, d)
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkJSON(t, s, `{"name":"laptop","pid":412,"version":"v1",`+
		`"coordinator":{"connected":true,"transport":"quic","addr":"203.0.113.10:443","rtt_ms":40.2},`+
		`"services":[],"dials":[],`+
		`"peers":[{"name":"home","path":"direct-udp","local":"192.168.2.2:40112","remote":"198.51.100.2:40112","rtt_ms":41,"loss":0,`+
		`"service_mtu":1452,"since":"2026-01-02T15:04:05Z","tx_bytes":0,"rx_bytes":0,"paths":[]},`+
		`{"name":"away","path":"","local":"","remote":"","rtt_ms":0,"loss":0,"service_mtu":0,"tx_bytes":0,"rx_bytes":0,"paths":[]}]}`)
	e, err := c.Explain(t.Context(), "home")
	if err != nil {
		t.Fatal(err)
	}
	checkJSON(t, e, `{"peer":"home","path":"","attempts":[]}`)
	checkJSON(t, PingLine{Peer: "home", Error: "offline"}, `{"peer":"home","error":"offline"}`)
}

func checkJSON(t *testing.T, v any, want string) {
	t.Helper()
	got, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Garbage on the control socket is refused and harms nobody.
func TestAPIBadRequests(t *testing.T) {
	h := NewHandler(&fakeDaemon{})
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{http.MethodGet, apiStatus, "", http.StatusMethodNotAllowed},
		{http.MethodPost, "/nothing", "", http.StatusNotFound},
		{http.MethodPost, apiPing, "{", http.StatusBadRequest},
		{http.MethodPost, apiPing, `{"peer":7}`, http.StatusBadRequest},
		{http.MethodPost, apiPing, "", http.StatusBadRequest},
		{http.MethodPost, apiExplain, `{"peer":"../x"}`, http.StatusBadRequest},
		{http.MethodPost, apiExpose, `{"service":"wg","url":"http://h:1"}`, http.StatusBadRequest},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, strings.NewReader(tt.body)))
		if w.Code != tt.want {
			t.Errorf("%s %s %q: %d, want %d", tt.method, tt.path, tt.body, w.Code, tt.want)
		}
	}
}

func TestCollector(t *testing.T) {
	d := &fakeDaemon{status: Status{
		Coordinator: CoordinatorStatus{Connected: true},
		Services:    []ServiceStatus{{Name: "wg", Flows: 2}},
		Dials:       []DialStatus{{Peer: "home", Service: "wg", Flows: 3}},
		Peers:       []PeerStatus{{Name: "home", Path: "direct-udp", RTT: 41, TxBytes: 7}, {Name: "away"}},
		Counters:    map[string]uint64{"replayed": 5},
		Punch:       &PunchStatus{Sent: 1500, Refused: 2},
	}}
	r := ops.NewRegistry()
	r.MustRegister(NewCollector(d))
	server := httptest.NewServer(ops.MetricsHandler(r, func(context.Context) error { return nil }))
	defer server.Close()
	text := get(t, server.Listener.Addr())
	for _, want := range []string{
		"rendezvous_agent_coordinator_connected 1",
		`rendezvous_agent_peer_path{path="direct-udp",peer="home"} 1`,
		`rendezvous_agent_peer_rtt_seconds{peer="home"} 0.041`,
		`rendezvous_agent_peer_bytes_total{direction="sent",peer="home"} 7`,
		`rendezvous_agent_flows{kind="dial",name="home/wg"} 3`,
		`rendezvous_agent_flows{kind="service",name="wg"} 2`,
		`rendezvous_agent_punch_datagrams_total{what="sent"} 1500`,
		`rendezvous_agent_punch_datagrams_total{what="refused"} 2`,
		`rendezvous_agent_dropped_datagrams_total{reason="replayed"} 5`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

func get(t *testing.T, addr net.Addr) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr.String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
