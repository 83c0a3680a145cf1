//go:build !linux

package stripe

import (
	"errors"
	"net/netip"
)

var errSystem = errors.New("port striping takes nftables, which Linux alone has; `ports:` in rendezvous.yaml opens more ports here")

// Listening is not known here.
func Listening([]netip.Addr) (Held, error) { return Held{}, errSystem }

// Apply is not to be had here.
func Apply(Rules) error { return errSystem }

// Remove is not to be had here.
func Remove() error { return errSystem }

// Read is not to be had here.
func Read() (Rules, bool, error) { return Rules{}, false, errSystem }

// WithoutChecksums is of no use here.
func WithoutChecksums([]netip.Addr) string { return "" }
