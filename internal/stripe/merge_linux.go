package stripe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// An interface merges datagrams that arrive one behind the other (GRO) only for
// a socket that wants it, and looks for that before ports are translated: those
// of a striped port come to none, and one by one. The switch mergeFeature has it
// merge them too. Without it a striped port took bursts at 0.6 of the direct
// port's rate, with it at the same (Linux 6.18, veth). What is only forwarded is
// merged as well, and cut again where it leaves.
const mergeFeature = "rx-udp-gro-forwarding"

// mergeSince is the kernel from which on the switch is used. It is there since
// 5.12, and what its users found wrong with it was mended up to 6.2.
var mergeSince = [2]int{6, 2}

// mergeTable is a table of its own with nothing but a set: the interfaces that we
// have switched, so that we switch back those alone. It outlives this program and
// the next Apply. If it is flushed, the switch stays on.
const (
	mergeTable = "rendezvous_gro"
	mergeSet   = "switched"
)

// merge switches merging on for the interfaces of these addresses, and off where
// it was switched on for others. Ports lead here without it too, only slower; so
// what goes wrong is not an error.
func merge(addrs []netip.Addr) {
	wanted := interfacesOf(addrs)
	if !mergesWell() {
		wanted = nil
	}
	var ours, back []string
	for _, name := range merged() {
		if slices.Contains(wanted, name) {
			ours = append(ours, name)
		} else {
			back = append(back, name)
		}
	}
	turn(back, false)
	var fresh []string
	for _, name := range wanted {
		if f, ok := featureOf(name, mergeFeature); ok {
			if on, free, err := f.of(name); err == nil && free && !on && !slices.Contains(ours, name) {
				fresh = append(fresh, name)
			}
		}
	}
	if len(fresh)+len(back) == 0 {
		return
	}
	if record(append(ours, fresh...)) == nil {
		turn(fresh, true)
	}
}

// unmerge switches back what merge has switched.
func unmerge() error {
	ours := merged()
	if len(ours) == 0 {
		return nil
	}
	turn(ours, false)
	return record(nil)
}

// turn switches merging for each; an interface may be gone.
func turn(names []string, on bool) {
	for _, name := range names {
		if f, ok := featureOf(name, mergeFeature); ok {
			_ = f.set(name, on) // see merge
		}
	}
}

func recordTable() *nftables.Table {
	return &nftables.Table{Name: mergeTable, Family: nftables.TableFamilyINet}
}

// merged are the interfaces that we have switched.
func merged() (names []string) {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	set, err := c.GetSetByName(recordTable(), mergeSet)
	if err != nil {
		return nil // there is none
	}
	elements, err := c.GetSetElements(set)
	if err != nil {
		return nil
	}
	for _, e := range elements {
		names = append(names, strings.TrimRight(string(e.Key), "\x00"))
	}
	return names
}

// record keeps the names of the interfaces that we have switched.
func record(names []string) error {
	return change("note which interfaces merge datagrams", func(c *nftables.Conn) error {
		c.AddTable(recordTable()) // so that there is one to delete
		c.DelTable(recordTable())
		if len(names) == 0 {
			return nil
		}
		var elements []nftables.SetElement
		for _, name := range names {
			key := make([]byte, unix.IFNAMSIZ)
			copy(key, name)
			elements = append(elements, nftables.SetElement{Key: key})
		}
		return c.AddSet(&nftables.Set{Table: c.AddTable(recordTable()), Name: mergeSet, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}, elements)
	})
}

// mergesWell says whether this kernel is new enough.
func mergesWell() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	return isSince(unix.ByteSliceToString(name.Release[:]), mergeSince)
}

// isSince compares a kernel's release ("6.18.3-amd64") with a version.
func isSince(release string, since [2]int) bool {
	var have [2]int
	if n, err := fmt.Sscanf(release, "%d.%d", &have[0], &have[1]); n < len(have) || err != nil {
		return false
	}
	return slices.Compare(have[:], since[:]) >= 0
}
