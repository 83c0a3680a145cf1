package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/meet"
	"rendezvous/internal/seal"
)

func TestParseAt(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, zone)
	midnight := time.Date(2026, 3, 2, 0, 1, 0, 0, zone)
	for _, c := range []struct {
		now  time.Time
		text string
		want string // empty: a fault
	}{
		{noon, "", "2026-03-01T12:00:00+01:00"},
		{noon, "+30s", "2026-03-01T12:00:30+01:00"},
		{noon, "15:30", "2026-03-01T15:30:00+01:00"},
		{noon, "12:00:05", "2026-03-01T12:00:05+01:00"},
		{noon, "11:55", "2026-03-01T11:55:00+01:00"},
		{noon, "11:30", "2026-03-02T11:30:00+01:00"},
		{midnight, "23:58", "2026-03-01T23:58:00+01:00"},
		{noon, "2026-03-01T11:30:00Z", "2026-03-01T12:30:00+01:00"},
		{noon, "2026-02-01T11:30:00Z", ""},
		{noon, "25:00", ""},
		{noon, "30s", ""},
		{noon, "soon", ""},
	} {
		at, err := parseAt(c.text, c.now)
		if c.want == "" {
			if err == nil || !strings.Contains(err.Error(), "--at") {
				t.Errorf("%q: %v, %v", c.text, at, err)
			}
			continue
		}
		if want, _ := time.Parse(time.RFC3339, c.want); err != nil || !at.Equal(want) {
			t.Errorf("%q at %v: %v, %v; want %v", c.text, c.now, at, err, want)
		}
	}
}

func TestParseLocal(t *testing.T) {
	four, six := netip.MustParseAddrPort("198.51.100.2:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
	for _, c := range []struct {
		text string
		peer netip.AddrPort
		want string
	}{
		{":40000", four, "0.0.0.0:40000"}, {":40000", six, "[::]:40000"}, {":0", netip.AddrPort{}, "0.0.0.0:0"},
		{"192.168.1.2:5", four, "192.168.1.2:5"}, {"192.168.1.2:5", six, ""}, {"40000", four, ""}, {":x", four, ""},
	} {
		got, err := parseLocal(c.text, c.peer)
		if err != nil && c.want != "" || err == nil && got.String() != c.want {
			t.Errorf("%s with %v: %v, %v", c.text, c.peer, got, err)
		}
	}
}

// All faults are told at once, and a missing secret comes with a fresh one.
func TestPunchFaults(t *testing.T) {
	var out bytes.Buffer
	term := &terminal{out: &out, err: &out, now: func() time.Time { return now }}
	f := punchFlags{peer: "198.51.100.2", local: ":40000", at: "noon", window: time.Second,
		expose: []string{"ssh=tcp://127.0.0.1:22", "wg=udp://127.0.0.1:1?raw"}, dial: []string{"wg", "wg=tcp://127.0.0.1:1"}}
	_, err := f.config(term)
	if err == nil {
		t.Fatal("no fault")
	}
	for _, want := range []string{`--peer: "198.51.100.2"`, "--at", "--for", "fresh one: --secret ", "ssh=tcp://127.0.0.1:22: without a coordinator",
		"takes no options", `--dial: "wg" is not NAME=URL`, "wg=tcp://127.0.0.1:1: without"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
	both := punchFlags{local: ":0", icmp: true, window: time.Minute, secret: "long enough"}
	if _, err := both.config(term); err == nil || !strings.Contains(err.Error(), "--icmp: it goes over IPv4") {
		t.Errorf("%v", err)
	}
	good := punchFlags{peer: "198.51.100.2:1", local: ":40000", at: "+30s", window: time.Minute, secret: "long enough",
		expose: []string{"wg=udp://127.0.0.1:51820"}, dial: []string{"dns=udp://127.0.0.1:5353"}}
	cfg, err := good.config(term)
	if err != nil || len(cfg.Services.List()) != 1 || len(cfg.Dials) != 1 || !cfg.When.At.Equal(now.Add(30*time.Second)) {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestReadSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "word")
	if err := os.WriteFile(file, []byte("correct horse\nbattery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := readSecret("@" + file)
	if err != nil || s != seal.SecretOfWord("correct horse") {
		t.Error(err)
	}
	for _, bad := range []string{"", "short", "@" + file + "x"} {
		if _, err := readSecret(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// Without --peer a person is asked, until it is an address.
func TestPeerIsAskedFor(t *testing.T) {
	var out bytes.Buffer
	term := &terminal{in: strings.NewReader("hello\n198.51.100.2\n198.51.100.2:40001\n"), err: &out}
	peer, err := term.askPeer(t.Context())
	if err != nil || peer.String() != "198.51.100.2:40001" || strings.Count(out.String(), "IP:PORT of a host") != 2 {
		t.Errorf("%v, %v\n%s", peer, err, out.String())
	}
	if _, err := term.askPeer(t.Context()); err == nil {
		t.Error("nothing was typed, and that is taken")
	}
}

func TestPunchGolden(t *testing.T) {
	var out bytes.Buffer
	for _, e := range []meet.Event{
		{What: meet.Listening, Local: "0.0.0.0:40000"},
		{What: meet.Outside, Reason: "ask STUN server 203.0.113.10:3478: no answer in 3s"},
		{What: meet.Outside, Addr: "198.51.100.1:40000", Server: "203.0.113.10:3478"},
		{What: meet.Outside, Addr: "198.51.100.1:40007", Server: "203.0.113.10:3478", Varies: true},
		{What: meet.Waiting, At: now.Add(90 * time.Second)},
		{What: meet.Knocking, Addr: "198.51.100.2:40001", Until: now.Add(150 * time.Second)},
		{What: meet.Heard, Addr: "198.51.100.2:50122"},
		{What: meet.Open, Addr: "198.51.100.2:50122", RTT: 41.04},
		{What: meet.Moved, Addr: "198.51.100.2:50123"},
		{What: meet.Lost},
		{What: meet.Ended, Reason: "its operator ended it"},
	} {
		writePunch(&out, e, now)
	}
	golden(t, "punch", out.String())
}
