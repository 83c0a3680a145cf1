package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// Device is a TUN device, and holds it until it is closed.
type Device struct {
	*os.File
	name    string
	existed bool // before we opened it; then it stays
	own     []netip.Addr
	noIPv6  error // why there is no IPv6 address; nil: there is, or none was wanted
}

const cloneDevice = "/dev/net/tun"

// Open makes a device, or takes one that exists and that nobody holds: such a
// one keeps the addresses that it has, and stays when we close it.
func Open(s Settings) (*Device, error) {
	d := &Device{name: s.Name, existed: exists(s.Name)}
	if err := d.open(); err != nil {
		return nil, explain(s.Name, err)
	}
	if err := d.configure(s); err != nil {
		return nil, errors.Join(explain(s.Name, err), d.Close())
	}
	return d, nil
}

// explain adds to an error what to do about it.
func explain(name string, err error) error {
	what := fmt.Errorf("make the TUN device %s: %w", name, err)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; it takes CAP_NET_ADMIN: run this as root, or give the program that capability (setcap cap_net_admin+ep)", what)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w; another program holds it: end that, or choose another --interface", what)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w; the kernel has no TUN devices here: modprobe tun, or pass %s into the container", what, cloneDevice)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w; is there an interface of that name which is no TUN device?", what)
	}
	return what
}

func (d *Device) open() error {
	request, err := unix.NewIfreq(d.name)
	if err != nil {
		return fmt.Errorf("%w: a name has 1 to 15 letters", err)
	}
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", cloneDevice, err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return errors.Join(fmt.Errorf("TUNSETIFF: %w", err), unix.Close(fd))
	}
	if err := setOffload(fd); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	d.File = os.NewFile(uintptr(fd), cloneDevice)
	return nil
}

// setOffload lets the kernel leave checksums to us, and the cutting of
// super-segments. A device that existed may have it on.
func setOffload(fd int) error {
	flags := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	if os.Getenv(dgram.EnvNoOffload) == "1" {
		flags = 0
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags); err != nil {
		return fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return nil
}

// Name is the interface's.
func (d *Device) Name() string { return d.name }
