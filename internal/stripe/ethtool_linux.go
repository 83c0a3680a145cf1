package stripe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interfacesOf names the interfaces that have one of these addresses.
func interfacesOf(addrs []netip.Addr) (names []string) {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range all {
		own, err := i.Addrs()
		has := err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && slices.Contains(addrs, p.Addr().Unmap())
		})
		if has && len(i.Name) < unix.IFNAMSIZ {
			names = append(names, i.Name)
		}
	}
	return names
}

// ethtool asks an interface by SIOCETHTOOL (linux/ethtool.h): question begins
// with the command, and takes the answer.
func ethtool(name string, question []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent on it
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the kernel's union
	}{data: unsafe.Pointer(unsafe.SliceData(question))}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("ask the interface %s (SIOCETHTOOL %#x): %w", name, binary.NativeEndian.Uint32(question), errno)
	}
	return nil
}

// question is a command of ethtool's with its arguments, and room for the
// answer, in words of 32 bits.
func question(room int, words ...uint32) []byte {
	b := make([]byte, 0, 4*(len(words)+room))
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b[:cap(b)]
}

func word(b []byte, i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }

// Of linux/ethtool.h: the set of strings that names features, and the length of
// each.
const (
	featureStrings = 4
	stringSize     = 32
)

// feature is one that an interface may have on or off: the bit with its number.
type feature struct {
	number, count int
}

// featureOf finds a feature by its name as `ethtool -k` has it; false where the
// kernel does not know it.
func featureOf(iface, name string) (feature, bool) {
	const count = 4 // the word of the answer
	how := question(1, unix.ETHTOOL_GSSET_INFO, 0, 0, 0)
	binary.NativeEndian.PutUint64(how[8:], 1<<featureStrings) // the set asked for; 0 in the answer where there is none
	if ethtool(iface, how) != nil || word(how, 2)|word(how, 3) == 0 {
		return feature{}, false
	}
	f := feature{count: int(word(how, count))}
	names := question((f.count*stringSize+3)/4, unix.ETHTOOL_GSTRINGS, featureStrings, uint32(f.count))
	if ethtool(iface, names) != nil {
		return feature{}, false
	}
	f.number = numberOf(names[12:], name)
	return f, f.number >= 0
}

// numberOf is at which place a name stands among those of a set; -1: nowhere.
func numberOf(set []byte, name string) int {
	for i := 0; len(set) >= stringSize; i, set = i+1, set[stringSize:] {
		if got, _, _ := bytes.Cut(set[:stringSize], []byte{0}); string(got) == name {
			return i
		}
	}
	return -1
}

func (f feature) blocks() int { return (f.count + 31) / 32 }

// of says whether the feature is on, and whether it may be switched.
func (f feature) of(iface string) (on, free bool, err error) {
	const available, active, never = 0, 2, 3 // words of a block
	now := question(4*f.blocks(), unix.ETHTOOL_GFEATURES, uint32(f.blocks()))
	if err := ethtool(iface, now); err != nil {
		return false, false, err
	}
	at, bit := 2+4*(f.number/32), uint32(1)<<(f.number%32)
	return word(now, at+active)&bit != 0, word(now, at+available)&^word(now, at+never)&bit != 0, nil
}

// set switches the feature.
func (f feature) set(iface string, on bool) error {
	const valid, requested = 0, 1 // words of a block
	want := question(2*f.blocks(), unix.ETHTOOL_SFEATURES, uint32(f.blocks()))
	at, bit := 2+2*(f.number/32), uint32(1)<<(f.number%32)
	binary.NativeEndian.PutUint32(want[4*(at+valid):], bit)
	if on {
		binary.NativeEndian.PutUint32(want[4*(at+requested):], bit)
	}
	return ethtool(iface, want)
}
