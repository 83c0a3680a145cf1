package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/rendezvous"
)

func TestRace(t *testing.T) {
	addrs := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::1]:443"),
		netip.MustParseAddrPort("192.0.2.1:3478"), netip.MustParseAddrPort("[2001:db8::1]:3478"),
	}
	const own = 2
	silence := func(ctx context.Context, at netip.AddrPort) (*control, error) {
		<-ctx.Done()
		return nil, errors.New(at.String() + " is silent")
	}
	wrongKey := func(ctx context.Context, at netip.AddrPort) (*control, error) {
		return nil, &rendezvous.PinError{Addr: at.String()}
	}
	won := new(control)
	answer := func(context.Context, netip.AddrPort) (*control, error) { return won, nil }
	type dial = func(context.Context, netip.AddrPort) (*control, error)
	tests := []struct {
		name  string
		dials []dial
		took  time.Duration
		fault string // "" where one answers
	}{
		{"the first", []dial{answer, silence, silence, silence}, 0, ""},
		{"the third port", []dial{silence, silence, answer, silence}, 2 * stagger, ""},
		{"nobody", []dial{silence, silence, silence, silence}, joinWait, "192.0.2.1:443 is silent; [2001:db8::1]:443 is silent"},
		{"another key", []dial{silence, wrongKey, answer, silence}, stagger, "the coordinator at [2001:db8::1]:443 has the key"},
		{"another coordinator on STUN's port", []dial{silence, silence, wrongKey, answer}, 3 * stagger, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), joinWait)
				defer cancel()
				began := time.Now()
				first, faults := race(ctx, addrs, own, func(ctx context.Context, at netip.AddrPort) (*control, error) {
					for i, a := range addrs {
						if a == at {
							return tt.dials[i](ctx, at)
						}
					}
					return nil, errors.New("no such address")
				})
				if took := time.Since(began); took != tt.took {
					t.Errorf("it took %s, not %s", took, tt.took)
				}
				switch {
				case tt.fault == "" && first != won:
					t.Errorf("nobody answered: %v", faults)
				case tt.fault != "" && first != nil:
					t.Error("somebody answered")
				case tt.fault != "" && !strings.HasPrefix(tellFaults(faults, own).Error(), tt.fault):
					t.Errorf("got %v", tellFaults(faults, own))
				}
			})
		})
	}
}
