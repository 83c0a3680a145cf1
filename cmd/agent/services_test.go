package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"rendezvous/internal/agent"
	"rendezvous/internal/path"
)

// The help of expose names every option of a URL, and every kind of path.
func TestHelpNamesAllOptions(t *testing.T) {
	const all = "udp://127.0.0.1:1?raw&alias&public=1&paths=direct-udp"
	if _, err := agent.ParseService("x", all); err != nil {
		t.Fatal(err)
	}
	words := append(strings.Split(path.AllKinds.String(), "+"), "  raw ", "  alias ", "  proxy ", "  public=PORT ", "  paths=KIND+KIND ")
	for _, word := range words {
		if !strings.Contains(exposeOptions, word) {
			t.Errorf("nothing says %q", word)
		}
	}
}

// What nobody listens at is told without a datagram to it.
func TestAbsentServices(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	services := []string{"udp://" + udp.LocalAddr().String(), "tcp://" + tcp.Addr().String(), "udp://192.0.2.1:9", "udp://name.invalid:9"}
	for i, closed := range []bool{false, true} {
		for n, url := range services {
			s, err := agent.ParseService("x", url)
			if err != nil {
				t.Fatal(err)
			}
			if err := absent(context.Background(), s); (err != nil) != (closed && n < 2) {
				t.Errorf("round %d: %s is told to be absent because of %v", i, url, err)
			}
		}
		_ = udp.Close()
		_ = tcp.Close()
	}
}

// JSON has URLs as they are typed.
func TestJSONHasPlainURLs(t *testing.T) {
	var out bytes.Buffer
	if err := writeJSON(&out, agent.ServiceStatus{URL: "udp://127.0.0.1:1?raw&public=1"}); err != nil || !strings.Contains(out.String(), "raw&public") {
		t.Errorf("%v: %s", err, &out)
	}
}
