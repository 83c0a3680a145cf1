package faketcp

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// settle is how long SelfTest gives the kernel for a RST. On loopback that is
// made before the send of the segment it answers returns.
const settle = 50 * time.Millisecond

// SelfTest shows on this host that fake TCP works: over loopback, segments get
// from one port to another, and the kernel's TCP answers none of them with a
// RST. It returns nil, or a *path.Failure: "unprivileged", "unsupported",
// "no-answer" where the segments do not arrive, "rst" where the kernel answers;
// or ctx's error.
func SelfTest(ctx context.Context) error {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	from, err := openDevice(at, nil)
	if err != nil {
		return err
	}
	defer from.close()
	to, err := openDevice(at, nil)
	if err != nil {
		return err
	}
	defer to.close()
	watch, err := watchResets(to.local())
	if err != nil {
		return err
	}
	defer watch.close()
	if err := cross(ctx, from, to); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
	}
	if n := watch.count(); n > 0 {
		return &path.Failure{
			Reason:   "rst",
			Evidence: fmt.Sprintf("this host sent %d RSTs from a port that fake TCP holds", n),
			Advice:   "something else answers on this host's behalf: look for firewall rules that reject with tcp-reset",
		}
	}
	return nil
}

// cross sends one segment of each kind that a kernel which knows of no
// connection refuses, and waits until they have arrived.
func cross(ctx context.Context, from, to device) error {
	var arrived int
	var err error
	a := new(dgram.Arena)
	defer a.Release()
	if err := to.setReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = to.setReadDeadline(time.Now()) })
	defer stop()
	kinds := []uint8{flagSYN, flagSYN | flagACK, flagACK, flagFIN | flagACK}
	for _, flags := range kinds {
		s := segment{local: from.local(), remote: to.local(), seq: 1, flags: flags, window: highWindow}
		if err := from.send(&s, dgram.Burst{}); err != nil {
			return fmt.Errorf("send a segment over loopback: %w", err)
		}
	}
	for arrived < len(kinds) && err == nil {
		err = to.receive(a, func(*segment, dgram.Burst) { arrived++ })
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &path.Failure{
			Reason:   "no-answer",
			Evidence: fmt.Sprintf("%d of %d segments crossed the loopback interface: %v", arrived, len(kinds), err),
			Advice:   "see whether this host's firewall drops TCP on lo",
		}
	}
	return nil
}
