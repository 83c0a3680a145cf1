package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/faketcp"
	"rendezvous/internal/forward"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/session"
)

func loadText(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(file)
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), file, "agent.yaml"))
	}
	return c, err
}

func TestConfigWhole(t *testing.T) {
	got, err := loadText(t, `
name: home
expose:
  - name: wg
    url: "udp://127.0.0.1:51820?raw"
  - {name: game, url: "udp://[::1]:7777"}
dial:
  office/dns: udp://127.0.0.1:5353
  office/wg: udp://0.0.0.0:0
paths: [direct-udp, relay-udp]
flows: {unanswered: 30s, answered: 5m, max: 200}
public: {spares: 16, idle: 90s, keepalive: 25s, max_clients: 500}
keepalive: 20s
degraded: {loss: 20, rtt: 1s}
faketcp: {window: 0xff00, packed: true, max_per_peer: 8}
offload: false
fastpath: true
portmap: false
punch: {per_second: 100, per_attempt: 300, spray: false}
interfaces: {ignore: ["docker*", virbr0]}
metrics: 127.0.0.1:9464
log: debug
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Settings: Settings{
		Name: "home",
		Expose: []Service{
			{Name: "wg", Target: forward.Target{Scheme: "udp", Host: "127.0.0.1", Port: 51820, Raw: true}},
			{Name: "game", Target: forward.Target{Scheme: "udp", Host: "::1", Port: 7777}},
		},
		Dial: []Dial{
			{Peer: "office", Service: "dns", Host: "127.0.0.1", Port: 5353},
			{Peer: "office", Service: "wg", Host: "0.0.0.0"},
		},
		Paths:     []path.Kind{path.DirectUDP, path.RelayUDP},
		Flows:     FlowLimits{Unanswered: 30 * time.Second, Answered: 5 * time.Minute, Max: 200},
		Public:    PublicLimits{Spares: 16, Idle: 90 * time.Second, Keepalive: 25 * time.Second, MaxClients: 500},
		Keepalive: 20 * time.Second,
		Degraded:  session.Thresholds{Loss: 0.2, RTT: time.Second},
		Disguise:  faketcp.Options{Window: 0xff00, Packed: true, PerPeer: 8},
		Ignore:    []string{"docker*", "virbr0"},
		Speed:     Speed{FastPath: true},
		Opening:   Opening{Punch: Punch{Budget: punch.Budget{PerSecond: 100, PerTarget: 2000, PerAttempt: 300}}},
		Telling:   Telling{Metrics: "127.0.0.1:9464", LogLevel: "debug"},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestConfigMapForm(t *testing.T) {
	got, err := loadText(t, "expose:\n  wg: udp://127.0.0.1:51820?raw\n  dns: udp://localhost:53\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Expose) != 2 || got.Expose[0].String() != "wg=udp://127.0.0.1:51820?raw" || got.Expose[1].String() != "dns=udp://localhost:53" {
		t.Errorf("got %v", got.Expose)
	}
}

func TestConfigDefaults(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "expose:\n  # wg: udp://127.0.0.1:1\nname:\n"} {
		got, err := loadText(t, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if !reflect.DeepEqual(got, DefaultConfig()) {
			t.Errorf("%q gives %+v", text, got)
		}
	}
	if err := DefaultConfig().Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}

func TestConfigFaults(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "name: home\nexpsoe: {}\n", `agent.yaml:2: expsoe: unknown key; known here: degraded, dial, expose, faketcp, fastpath, flows, interfaces, keepalive, log, metrics, name, offload, paths, portmap, ports, public, punch`},
		{"unknown key within", "flows:\n  max: 5\n  idle: 3s\n", `agent.yaml:3: flows.idle: unknown key; known here: answered, max, unanswered`},
		{"unknown key in a service", "expose:\n- name: wg\n  url: udp://h:1\n  raw: true\n", `agent.yaml:4: expose.raw: unknown key "raw"; known here: name, url`},
		{"key twice", "expose:\n  wg: udp://h:1\n  wg: udp://h:2\n", `agent.yaml:3: expose.wg: "wg" stands here a second time, first in line 2`},
		{"service twice", "expose:\n- {name: wg, url: udp://h:1}\n- {name: wg, url: udp://h:2}\n", `agent.yaml:1: expose: wg is given twice, as udp://h:1 and as udp://h:2`},
		{"one port twice", "log: info\ndial:\n  a/x: udp://127.0.0.1:1\n  a/y: udp://localhost:1\n", `agent.yaml:2: dial: a/x and a/y both listen on udp://127.0.0.1:1; give one another port`},
		{"raw tcp", "expose:\n  web: tcp://127.0.0.1:80?raw\n", `raw is for udp:// services`},
		{"public port twice", "expose:\n  wg: udp://h:1?raw&public=2\n  dns: udp://h:53?public=2\n", `agent.yaml:1: expose: wg and dns both ask for the public port udp/2`},
		{"public port without relay", "paths: [direct-udp]\nexpose: {wg: \"udp://h:1?public=2\"}\n", `agent.yaml:2: expose: wg=udp://h:1?public=2 asks for a public port, which comes through the relay, and no such path is allowed`},
		{"public limits", "public: {spares: 0, idle: 0s, max_clients: 0}\n", "agent.yaml:1: public: spares is 0 and must be from 1 to 1024\nagent.yaml:1: public: idle (0s) must be 1s or more, and keepalive (15s) from 1s to 1m\nagent.yaml:1: public: max_clients is 0 and must be 1 or more"},
		{"not a URL", "expose:\n  wg: 127.0.0.1:51820\n", `agent.yaml:2: expose.wg: "127.0.0.1:51820" is not a URL like udp://127.0.0.1:51820`},
		{"no url", "expose:\n- name: wg\n", `agent.yaml:2: expose: "" is not a URL like udp://127.0.0.1:51820`},
		{"raw dial", "dial:\n  a/x: udp://h:1?raw\n", `agent.yaml:2: dial.a/x: the URL "udp://h:1?raw": of all options a dial takes paths=KIND+KIND alone; others belong to the exposed URL on the peer`},
		{"dial with more", "dial:\n  a/x: udp://127.0.0.1:1?paths=direct-udp&raw\n", `agent.yaml:2: dial.a/x: the URL "udp://127.0.0.1:1?paths=direct-udp&raw": of all options a dial takes paths=KIND+KIND alone`},
		{"rule of no kind", "dial:\n  a/x: udp://127.0.0.1:1?paths=udp\n", `agent.yaml:2: dial.a/x: the URL "udp://127.0.0.1:1?paths=udp": no kind of path is called "udp"`},
		{"rule beyond paths", "paths: [direct-udp]\nexpose: {x: \"udp://127.0.0.1:1?paths=relay-tls\"}\n",
			`agent.yaml:2: expose: x=udp://127.0.0.1:1?paths=relay-tls allows none of the paths that are allowed here, [direct-udp]`},
		{"dial on a name", "dial:\n  a/x: udp://home:1\n", `agent.yaml:2: dial.a/x: "udp://home:1" is not udp://IP:PORT or tcp://IP:PORT with an address of this machine`},
		{"one TCP port twice", "dial:\n  a/x: tcp://127.0.0.1:1\n  a/y: tcp://127.0.0.1:1?paths=relay-udp\n  a/z: udp://127.0.0.1:1\n", `agent.yaml:1: dial: a/x and a/y both listen on tcp://127.0.0.1:1?paths=relay-udp; give one another port`},
		{"TCP dial on a name", "dial:\n  a/x: tcp://home:1\n", `agent.yaml:2: dial.a/x: "tcp://home:1" is not udp://IP:PORT or tcp://IP:PORT`},
		{"no target", "dial:\n  wg: udp://h:1\n", `agent.yaml:2: dial.wg: "wg" is not PEER/NAME, as in home/wg`},
		{"list where a word belongs", "dial:\n  a/wg: [udp://h:1]\n", `agent.yaml:2: dial.a/wg: a/wg: one value is wanted here`},
		{"path", "paths: [direct-udp, relay]\n", `agent.yaml:1: paths: no kind of path is called "relay"; there are [direct-udp direct-faketcp direct-tcp relay-udp relay-faketcp relay-tls]`},
		{"name", "name: My_Home\n", `agent.yaml:1: name: the agent's name "My_Home" may hold only a-z, 0-9 and -, and neither begin nor end with -`},
		{"duration", "keepalive: 15\nflows: {unanswered: 0s}\n", `agent.yaml:1: keepalive: "15" is not a duration like 60s or 3m`},
		{"keepalive", "keepalive: 1h\n", "agent.yaml:1: keepalive: it is 1h0m0s and must be from 1s to 10m"},
		{"degraded", "degraded: {loss: 120}\n", "agent.yaml:1: degraded: loss is 120 and must be more than 0 and less than 100 percent; rtt is 700ms and must be more than 0"},
		{"faketcp", "faketcp: {window: 5}\n", "agent.yaml:1: faketcp: window 0x5: it must be 0xfe00 to 0xfffe, or 0 to draw one"},
		{"punch", "punch: {per_second: 501, per_target: 0, spray: true}\n", "agent.yaml:1: punch: per_second is 501 and must be from 1 to 500: it may be lowered, not raised\nagent.yaml:1: punch: per_target is 0 and must be from 1 to 2000: it may be lowered, not raised"},
		{"level", "log: loud\n", `agent.yaml:1: log: there is no log level "loud"; there are [debug info warn error]`},
		{"metrics", "metrics: 9464\n", `agent.yaml:1: metrics: "9464" is not HOST:PORT, as in 127.0.0.1:9464`},
		{"pattern", "interfaces:\n  ignore: ['[']\n", `agent.yaml:1: interfaces: ignore: "[" is not a pattern like docker*`},
		{"flows", "flows: {unanswered: 5m, max: 0}\n", "agent.yaml:1: flows: max is 0 and must be from 1 to 16381"},
		{"port 0", "ports: [443, 0]\n", "agent.yaml:1: ports: they must be from 1 to 65535, and 8 at most"},
		{"not YAML", "expose: [\n", "agent.yaml: line 1: did not find expected node content"},
		{"not a mapping", "- wg\n", "agent.yaml:1: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadText(t, tt.text)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestConfigAllFaultsAtOnce(t *testing.T) {
	_, err := loadText(t, "called: home\nexpose:\n  WG: udp://127.0.0.1:1\n  web: tcp://h:x\ndial:\n  wg: udp://h:1\npaths: [fast]\nkeepalive: 1ms\nlog: loud\n")
	if err == nil {
		t.Fatal("no error")
	}
	for _, line := range []string{":1:", ":3:", ":4:", ":6:", ":7:", ":8:", ":9:"} {
		if !strings.Contains(err.Error(), "agent.yaml"+line) {
			t.Errorf("nothing is said of line %s\n%v", line, err)
		}
	}
}

func TestConfigExitCode(t *testing.T) {
	_, err := LoadConfig(filepath.Join(t.TempDir(), "agent.yaml"))
	if ops.ExitCode(err) != ops.ExitUsage {
		t.Errorf("a missing file gives %v", err)
	}
}

func TestFlags(t *testing.T) {
	c := DefaultConfig()
	c.Expose = []Service{{Name: "wg", Target: forward.Target{Scheme: "udp", Host: "h", Port: 1}}}
	c.Paths = []path.Kind{path.DirectUDP}
	if err := c.AddFlags([]string{"dns=udp://127.0.0.1:53"}, []string{"home/wg=udp://127.0.0.1:51821"}, "relay-udp,direct-udp"); err != nil {
		t.Fatal(err)
	}
	if len(c.Expose) != 2 || len(c.Dial) != 1 || c.Dial[0].String() != "home/wg=udp://127.0.0.1:51821" {
		t.Errorf("got %v %v", c.Expose, c.Dial)
	}
	if !reflect.DeepEqual(c.Paths, []path.Kind{path.RelayUDP, path.DirectUDP}) {
		t.Errorf("paths %v", c.Paths)
	}
}

func TestFlagFaults(t *testing.T) {
	c := DefaultConfig()
	err := c.AddFlags([]string{"wg", "wg=udp://h", "=udp://h:1", "wg=udp://h:0"}, []string{"home=udp://h:1", "home/=udp://h:1"}, "nonsense")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`--expose: "wg" is not NAME=URL, as in wg=udp://127.0.0.1:51820`,
		`--expose: "udp://h": "" is no port from 1 to 65535`,
		`--expose: the service has no name`,
		`--expose: "udp://h:0": "0" is no port from 1 to 65535`,
		`--dial: "home" is not PEER/NAME, as in home/wg`,
		`--dial: the service has no name`,
		`--paths: no kind of path is called "nonsense"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

func TestURLFaults(t *testing.T) {
	for _, raw := range []string{
		"", "wg", "udp:", "udp://", "udp://:1", "udp://h:65536", "udp://h:-1", "udp://h:x", "udp://u@h:1", "udp://h:1/path",
		"udp://h:1#f", "http://h:1", "tcp://h:1?raw", "udp://h:1?raw=1", "udp://h:1?raw&raw", "udp://h:1?fast", "udp://h:1?%zz", "udp://[::1:1", " udp://h:1",
	} {
		if s, err := ParseService("wg", raw); err == nil {
			t.Errorf("%q is taken as %v", raw, s)
		}
	}
}

func FuzzParseDialFlag(f *testing.F) {
	for _, s := range []string{"home/wg=udp://127.0.0.1:51820", "a/b=udp://[::1]:0", "a/b=udp://localhost:1", "a/=", "a/b=udp://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		d, err := ParseDialFlag(arg)
		if err != nil {
			return
		}
		again, err := ParseDialFlag(d.String())
		if err != nil || again != d {
			t.Errorf("%q reads as %+v, which writes %q and reads as %+v, %v", arg, d, d, again, err)
		}
	})
}

func FuzzParseExposeFlag(f *testing.F) {
	for _, s := range []string{"wg=udp://127.0.0.1:51820?raw", "a=udp://[::1%25eth0]:1", "=", "x=udp://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		s, err := ParseExposeFlag(arg)
		if err != nil {
			return
		}
		again, err := ParseExposeFlag(s.String())
		if err != nil || again != s {
			t.Errorf("%q reads as %+v, which writes %q and reads as %+v, %v", arg, s, s, again, err)
		}
	})
}

// S0-25
func TestRulesForPathsSurviveFilesAndFlags(t *testing.T) {
	want := path.KindsOf(path.DirectFakeTCP, path.RelayTLS)
	for name, yaml := range map[string]string{
		"a plus":  "expose:\n  x: udp://127.0.0.1:1?raw&paths=direct-faketcp+relay-tls\ndial:\n  a/x: udp://127.0.0.1:2?paths=relay-tls+direct-faketcp\n",
		"a comma": "expose:\n  x: udp://127.0.0.1:1?raw&paths=direct-faketcp,relay-tls\ndial:\n  a/x: udp://127.0.0.1:2?paths=relay-tls,direct-faketcp\n",
		"braces":  "expose: {x: \"udp://127.0.0.1:1?raw&paths=direct-faketcp+relay-tls\"}\ndial: {a/x: \"udp://127.0.0.1:2?paths=direct-faketcp,relay-tls\"}\n",
		"a list":  "expose:\n- name: x\n  url: udp://127.0.0.1:1?paths=direct-faketcp+relay-tls&raw\ndial:\n  a/x: udp://127.0.0.1:2?paths=direct-faketcp+relay-tls\n",
	} {
		c, err := loadText(t, yaml)
		if err != nil || len(c.Expose) != 1 || len(c.Dial) != 1 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s, d := c.Expose[0], c.Dial[0]
		if s.Only != want || !s.Raw || s.URL() != "udp://127.0.0.1:1?raw&paths=direct-faketcp+relay-tls" {
			t.Errorf("%s: service %+v, %s", name, s, s.URL())
		}
		if d.Only != want || d.URL() != "udp://127.0.0.1:2?paths=direct-faketcp+relay-tls" {
			t.Errorf("%s: dial %+v, %s", name, d, d.URL())
		}
		if again, err := ParseExposeFlag(s.String()); again != s || err != nil {
			t.Errorf("%s: kept as %s, read as %+v, %v", name, s, again, err)
		}
		if again, err := ParseDialFlag(d.String()); again != d || err != nil {
			t.Errorf("%s: kept as %s, read as %+v, %v", name, d, again, err)
		}
	}
}
