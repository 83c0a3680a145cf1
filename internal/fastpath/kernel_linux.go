//go:build !mips && !mips64 && !ppc64 && !s390x

package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Kernel is the program and its table in the kernel. Its methods may be called
// from many goroutines.
type Kernel struct {
	objects flowObjects

	attaching sync.Mutex
	hooks     map[place]*hook // by their interface alone; guarded by attaching, which may take 0.1 s

	mu sync.Mutex
	of map[flowArrival]*Detour
}

// hook is the program on one interface.
type hook struct {
	link link.Link
	uses int
}

// Open loads the program, and attaches it for a moment to see that it may. The
// error is ErrKernel, ErrPrivilege, or what else the kernel said.
func Open() (*Kernel, error) {
	k := &Kernel{hooks: make(map[place]*hook), of: make(map[flowArrival]*Detour)}
	if err := loadFlowObjects(&k.objects, nil); err != nil {
		return nil, fmt.Errorf("load a program for datagrams into the kernel: %w", plain(err))
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("find the loopback interface: %w", err)
	}
	p := place{interfaceOf: lo.Index, loopback: true}
	if err := k.hold(p); err != nil {
		k.Close()
		return nil, err
	}
	k.release(p)
	return k, nil
}

// plain says in our words what is missing.
func plain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return ErrPrivilege
	case errors.Is(err, unix.ENOSYS) || errors.Is(err, ebpf.ErrNotSupported):
		return ErrKernel
	}
	return err
}

// Close ends all detours and takes everything out of the kernel.
func (k *Kernel) Close() {
	k.mu.Lock()
	of := make(map[*Detour]bool)
	for _, d := range k.of {
		of[d] = true
	}
	k.mu.Unlock()
	for d := range of {
		d.End()
	}
	_ = k.objects.Close() // it has no error that matters: the descriptors are gone
}

// Flows is how many flows the kernel forwards in one direction at least.
func (k *Kernel) Flows() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for from, d := range k.of {
		if from == d.in {
			n++
		}
	}
	return n
}

// hold attaches the program where datagrams of a flow come by: what local
// programs send as it leaves by the loopback interface, all else as it arrives.
func (k *Kernel) hold(p place) error {
	k.attaching.Lock()
	defer k.attaching.Unlock()
	h := k.hooks[hookOf(p)]
	if h == nil {
		at := ebpf.AttachTCXIngress
		if p.loopback {
			at = ebpf.AttachTCXEgress
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: p.interfaceOf, Program: k.objects.Forward, Attach: at})
		if err != nil {
			return fmt.Errorf("attach a program to interface %d: %w", p.interfaceOf, plain(err))
		}
		h = &hook{link: l}
		k.hooks[hookOf(p)] = h
	}
	h.uses++
	return nil
}

func (k *Kernel) release(p place) {
	k.attaching.Lock()
	defer k.attaching.Unlock()
	h := k.hooks[hookOf(p)]
	if h.uses--; h.uses == 0 {
		delete(k.hooks, hookOf(p))
		_ = h.link.Close() // the interface may be gone, and the link with it
	}
}

func hookOf(p place) place { return place{interfaceOf: p.interfaceOf, loopback: p.loopback} }

// Begin has the kernel forward what the peer sends. What the client or service
// sends follows by Allow.
func (k *Kernel) Begin(f Flow) (*Detour, error) {
	near, err := placeOf(f.Near)
	if err != nil {
		return nil, err
	}
	wide, err := placeOf(f.Wide)
	if err != nil {
		return nil, err
	}
	if wide.loopback {
		return nil, fmt.Errorf("%v: %w", f.Wide.Remote, errPlace)
	}
	d := &Detour{
		k: k, near: near, wide: wide,
		out: arrivalOf(near, f.Near.Remote), in: arrivalOf(wide, f.Wide.Remote),
	}
	if err := k.hold(near); err != nil {
		return nil, err
	}
	if err := k.hold(wide); err != nil {
		k.release(near)
		return nil, err
	}
	d.there = flowDeparture{As: addressesOf(wide.own, f.Wide.Remote), Interface: uint32(wide.interfaceOf)}
	back := flowDeparture{As: addressesOf(near.own, f.Near.Remote), Interface: uint32(near.interfaceOf), Largest: 1 << 16, Token: f.Token, Probed: 1}
	k.mu.Lock()
	err = d.put(d.in, back)
	k.mu.Unlock()
	if err != nil {
		k.release(near)
		k.release(wide)
		return nil, err
	}
	return d, nil
}

// arrivalOf is how datagrams from a remote address look where the program sees
// them.
func arrivalOf(p place, remote netip.AddrPort) flowArrival {
	return flowArrival{Of: addressesOf(remote, p.own), Interface: uint32(p.interfaceOf)}
}

// addressesOf is as they stand on the wire.
func addressesOf(source, destination netip.AddrPort) flowAddresses {
	return flowAddresses{
		Source: address(source), Destination: address(destination),
		SourcePort: port(source), DestinationPort: port(destination),
	}
}

func address(a netip.AddrPort) uint32 {
	b := a.Addr().Unmap().As4()
	return binary.NativeEndian.Uint32(b[:])
}

func port(a netip.AddrPort) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, a.Port()))
}
