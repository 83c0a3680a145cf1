package forward

import (
	"strings"
	"testing"

	"rendezvous/internal/path"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]Target{
		"udp://127.0.0.1:51820":                            {Scheme: "udp", Host: "127.0.0.1", Port: 51820},
		"udp://nas.lan:53/":                                {Scheme: "udp", Host: "nas.lan", Port: 53},
		"udp://[fe80::1%25eth0]:53":                        {Scheme: "udp", Host: "fe80::1%eth0", Port: 53},
		"udp://127.0.0.1:51820?raw":                        {Scheme: "udp", Host: "127.0.0.1", Port: 51820, Raw: true},
		"udp://127.0.0.1:51820?raw&public=51820":           {Scheme: "udp", Host: "127.0.0.1", Port: 51820, Raw: true, Public: 51820},
		"udp://127.0.0.1:1?paths=direct-faketcp,relay-tls": {Scheme: "udp", Host: "127.0.0.1", Port: 1, Only: path.KindsOf(path.DirectFakeTCP, path.RelayTLS)},
		"udp://127.0.0.1:1?raw&paths=direct-tcp+relay-tls": {Scheme: "udp", Host: "127.0.0.1", Port: 1, Raw: true, Only: path.KindsOf(path.DirectTCP, path.RelayTLS)},
		"udp://127.0.0.1:51820?public=1":                   {Scheme: "udp", Host: "127.0.0.1", Port: 51820, Public: 1},
		"tcp://[::1]:22":                                   {Scheme: "tcp", Host: "::1", Port: 22},
		"tcp://127.0.0.1:80?proxy&alias&public=80":         {Scheme: "tcp", Host: "127.0.0.1", Port: 80, Proxy: true, Alias: true, Public: 80},
		"udp://localhost:53?alias":                         {Scheme: "udp", Host: "localhost", Port: 53, Alias: true},
	} {
		if got, err := ParseURL(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for in, say := range map[string]string{
		"":                                   "not a URL",
		"127.0.0.1:51820":                    "not a URL",
		"udp:127.0.0.1:51820":                "not a URL",
		"http://127.0.0.1:80":                "http://",
		"udp://127.0.0.1":                    "no port",
		"udp://127.0.0.1:0":                  "no port",
		"udp://127.0.0.1:70000":              "no port",
		"udp://:53":                          "no host",
		"udp://0.0.0.0:53":                   "no host",
		"udp://[::]:53":                      "no host",
		"udp://224.0.0.1:53":                 "no host",
		"udp://u@127.0.0.1:53":               "more than",
		"udp://127.0.0.1:53/path":            "more than",
		"udp://127.0.0.1:53#x":               "more than",
		"udp://127.0.0.1:53?raw=1":           "raw",
		"udp://127.0.0.1:53?raw&raw":         "raw",
		"udp://127.0.0.1:53?public=x":        "public",
		"tcp://127.0.0.1:53?raw":             "udp://",
		"udp://127.0.0.1:53?proxy":           "tcp://",
		"udp://10.0.0.1:53?alias":            "127.0.0.1",
		"udp://127.0.0.1:53?public=":         "public",
		"udp://127.0.0.1:53?public=1&public": "public",
		"udp://127.0.0.1:53?mtu=1":           "mtu",
		"udp://127.0.0.1:53?paths":           "paths",
		"udp://127.0.0.1:53?paths=udp":       "there are [direct-udp",
		"udp://127.0.0.1:53?%zz":             "options",
	} {
		if got, err := ParseURL(in); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %+v, %v; want an error that says %q", in, got, err, say)
		}
	}
}

func TestNamesOfServices(t *testing.T) {
	for _, name := range []string{"wg", "a", "nas-2", "0", strings.Repeat("x", 63)} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "WG", "-a", "a-", "a_b", "a.b", "ä", "a b", "a/b", strings.Repeat("x", 64)} {
		if CheckName(name) == nil {
			t.Errorf("%q passed", name)
		}
	}
}

func TestExpose(t *testing.T) {
	s := NewServices()
	for _, c := range [][3]string{
		{"WG", "udp://127.0.0.1:1", "a-z"}, {"wg", "udp://127.0.0.1", "expose wg"}, {"ssh", "tcp://127.0.0.1:22?raw", "udp://"},
	} {
		if err := s.Expose(c[0], c[1]); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, name := range []string{"wg", "dns", "wg"} {
		if err := s.Expose(name, "udp://127.0.0.1:1?raw"); err != nil {
			t.Error(err)
		}
	}
	list := s.List()
	if len(list) != 2 || list[0].Name != "dns" || list[1].URL != "udp://127.0.0.1:1?raw" || !list[1].Raw {
		t.Errorf("list: %+v", list)
	}
	if err := s.Unexpose("nas"); err == nil || !strings.Contains(err.Error(), "dns, wg") {
		t.Errorf("unexpose: %v", err)
	}
	flows := New(Config{Services: s})
	if _, err := flows.Listen("WG", addr("127.0.0.1:1"), 0); err == nil {
		t.Error("dialed a name that can't be")
	}
}

// All options that are wrong are named, in the order in which they stand.
func TestFaultsOfOptions(t *testing.T) {
	for in, want := range map[string]string{
		"udp://h:1?rwa&public=0&pahts=x&raw": `"rwa" does not exist or is given wrongly; public: "0" is no port from 1 to 65535; "pahts=x" does not exist or is given wrongly; there are ?raw`,
		"udp://h:1?raw=1&proxy&raw&raw":      `"raw=1" does not exist or is given wrongly; proxy is for tcp:// services; alias gives the clients of a udp:// one addresses of their own; "raw" is given twice`,
		"tcp://h:1?alias&raw":                `alias needs a service on 127.0.0.1: only there every client can have an address of its own; raw is for udp:// services`,
	} {
		for range 20 {
			if _, err := ParseURL(in); err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("%s: got %v, want %s", in, err, want)
			}
		}
	}
}

// FuzzParseURL: what is accepted is whole.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"udp://127.0.0.1:51820?raw&public=51820", "tcp://[::1]:22", "udp://[fe80::1%25eth0]:53", "://", "udp://%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseURL(s)
		if err == nil && (got.Host == "" || got.Port == 0 || got.Scheme != "udp" && got.Scheme != "tcp") {
			t.Errorf("%q: %+v", s, got)
		}
	})
}
