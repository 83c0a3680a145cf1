//go:build linux

package programs

import (
	"time"

	"rendezvous/internal/natlab/netns"
)

// Where iperf3 listens at home, behind the service, and where the laptop
// finds it; and the port of the routers that leads there directly.
const (
	SpeedAt     = "127.0.0.1"
	SpeedExpose = "speed=tcp://127.0.0.1:5201"
	SpeedDial   = "home/speed=tcp://127.0.0.1:5202"
	speedPort   = "5201"
)

// SpeedOptions are a scene between whose NATs iperf3 can go directly too: the
// home's router and carrier lead its port to the home.
func SpeedOptions() netns.Options {
	return netns.Options{Wire: true, HomeNAT: netns.Masquerade().Publish("tcp", 5201, netns.HomeAddr),
		CarrierNAT: netns.Masquerade().Publish("tcp", 5201, netns.HomeWAN)}
}

// Speeds are what TCP gets in one direction, in Mbit/s, directly through the
// NATs and through a TCP service.
type Speeds struct{ Direct, Service float64 }

// MeasureTCP compares them, from the laptop to the home; options are iperf3's.
func (n *Network) MeasureTCP(d time.Duration, options ...string) (s Speeds) {
	s.Direct = n.Iperf3By(n.Scene.Laptop, n.Scene.Home, netns.HomeAddr, netns.HomePublic, d, append(options, "-p", speedPort)...)
	s.Service = n.Iperf3By(n.Scene.Laptop, n.Scene.Home, SpeedAt, "127.0.0.1", d, append(options, "-p", "5202")...)
	return s
}
