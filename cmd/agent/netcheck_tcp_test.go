package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"rendezvous/internal/agent"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

func TestBoxesOnTheWay(t *testing.T) {
	got := boxesOf(faketcp.Verdict{SplitTCP: true, SeqRewritten: true, Coalesced: true, WindowClamped: true, OptionsStripped: true, MSSClamped: true})
	want := []string{"split-tcp", "sequence-rewriting", "coalescing", "window-clamping", "option-stripping", "mss-clamping"}
	if !slices.Equal(got, want) || len(boxesOf(faketcp.Verdict{Packed: true})) > 0 {
		t.Errorf("got %v", got)
	}
}

// The coordinator's doors are asked besides its STUN servers, each transport at
// its own.
func TestTCPSurveyAsksTheDoors(t *testing.T) {
	state, err := agent.NewState(t.TempDir(), "laptop", agent.Coordinator{Addr: "192.0.2.1:443", Doors: []agent.Door{
		{Transport: proto.Transport_TRANSPORT_UDP, Port: 53}, {Transport: proto.Transport_TRANSPORT_TLS, Port: 8443},
		{Transport: proto.Transport_TRANSPORT_FAKE_TCP, Port: 80},
	}})
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort
	s := newTCPSurvey([]netip.AddrPort{at("192.0.2.1:443"), at("192.0.2.1:3478")}, state)
	if want := []netip.AddrPort{at("192.0.2.1:443"), at("192.0.2.1:3478"), at("192.0.2.1:8443")}; !slices.Equal(s.servers, want) {
		t.Errorf("over TCP %v", s.servers)
	}
	if !s.told || !slices.Equal(s.doors, []netip.AddrPort{at("192.0.2.1:80")}) {
		t.Errorf("over fake TCP %v", s.doors)
	}
}

// Without privilege, and where nothing answers, netcheck still ends and says
// what it knows.
func TestTCPSurveyWithoutFakeTCP(t *testing.T) {
	s := &tcpSurvey{noFake: &path.Failure{Reason: "unprivileged"}, tls: func(context.Context) (string, error) { return "", errors.New("no") }}
	var n agent.Netcheck
	s.run(t.Context()).addTo(&n)
	if n.FakeTCP != "unprivileged" || n.TCPPorts == nil || n.FakeTCPPorts == nil || n.Middlebox == nil || plainTCP(n) {
		t.Errorf("%+v", n)
	}
}
