//go:build !linux

package tun

import (
	"errors"
	"io"
	"net/netip"
)

// ErrPlatform says that this system has no TUN devices that we know.
var ErrPlatform = errors.New("TCP over a TUN device takes Linux; on this system dial the peer's service by its port (agent dial PEER/NAME=tcp://127.0.0.1:PORT)")

// Device is a TUN device.
type Device struct{ io.ReadWriteCloser }

// Open gives ErrPlatform.
func Open(Settings) (*Device, error) { return nil, ErrPlatform }

// Name is the interface's.
func (*Device) Name() string { return "" }

// Own are the device's addresses.
func (*Device) Own() []netip.Addr { return nil }

// NoIPv6 is why the device has no IPv6 address.
func (*Device) NoIPv6() error { return nil }

// SetMTU gives ErrPlatform.
func (*Device) SetMTU(int) error { return ErrPlatform }

// InterfaceMTU gives ErrPlatform.
func InterfaceMTU(string) (int, error) { return 0, ErrPlatform }
