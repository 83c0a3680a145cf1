//go:build linux

package netns

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Count is what an nftables counter has seen.
type Count struct{ Packets, Bytes uint64 }

// watchTable counts before defragmentation (priority -400 is conntrack's),
// else a fragment would never be seen.
//
// Resets are counted where a host's own kernel sends them on a wire; forwarded
// ones are of others. (A packet socket's segments pass no hook.)
const watchTable = `table inet watch {
 counter fragments { }
 counter resets { }
 chain arriving {
  type filter hook prerouting priority -450; policy accept;
  ip frag-off & 0x3fff != 0 counter name fragments
  exthdr frag exists counter name fragments
 }
 chain leaving {
  type filter hook postrouting priority 450; policy accept;
 }
 chain sending {
  type filter hook output priority 450; policy accept;
  oifname { "wan0", "lan0", "eth0" } tcp flags & rst == rst counter name resets
 }
}
`

func (h *Host) watch() {
	h.lab.t.Helper()
	h.NFT(watchTable)
}

// NFT runs a file of nftables commands on the host.
func (h *Host) NFT(script string) {
	h.lab.t.Helper()
	if err := h.nft(script); err != nil {
		h.lab.t.Fatalf("%v", err)
	}
}

func (h *Host) nft(script string) error {
	cmd := exec.Command("ip", "netns", "exec", h.ns, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft on %s: %w: %s\n%s", h.Name, err, out, script)
	}
	return nil
}

// CountArriving begins to count the packets that come to the host and match
// an nftables expression, "ip daddr 198.51.100.66 udp dport 443" say.
func (h *Host) CountArriving(name, match string) {
	h.lab.t.Helper()
	h.count("arriving", name, match)
}

// CountLeaving does so with the packets that leave the host, be they its own
// or forwarded ones, with the addresses that NAT gave them.
func (h *Host) CountLeaving(name, match string) {
	h.lab.t.Helper()
	h.count("leaving", name, match)
}

func (h *Host) count(chain, name, match string) {
	h.lab.t.Helper()
	h.NFT(fmt.Sprintf("add counter inet watch %s\nadd rule inet watch %s %s counter name %s\n", name, chain, match, name))
}

// Counter reads a counter: one begun by CountArriving or CountLeaving,
// "fragments" and "resets" on every host, "invalid" and "unsolicited" on a
// router.
func (h *Host) Counter(name string) Count {
	h.lab.t.Helper()
	c, err := h.counter(name)
	if err != nil {
		h.lab.t.Fatalf("%v", err)
	}
	return c
}

func (h *Host) counter(name string) (Count, error) {
	out, err := h.Try("nft", "--json", "list", "counters")
	if err != nil {
		return Count{}, err
	}
	var listing struct {
		Objects []struct {
			Counter struct {
				Name    string
				Packets uint64
				Bytes   uint64
			} `json:"counter"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &listing); err != nil {
		return Count{}, fmt.Errorf("read the counters of %s: %w", h.Name, err)
	}
	for _, o := range listing.Objects {
		if o.Counter.Name == name {
			return Count{o.Counter.Packets, o.Counter.Bytes}, nil
		}
	}
	return Count{}, fmt.Errorf("read the counters of %s: none is called %q", h.Name, name)
}

// Overruns is how many datagrams came to the host while the socket that they
// were for was full (RcvbufErrors of /proc/net/snmp).
func (h *Host) Overruns() uint64 {
	h.lab.t.Helper()
	var table []byte
	err := h.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	var names []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i > 0 && i < len(fields) {
			n, err := strconv.ParseUint(fields[i], 10, 64)
			if err == nil {
				return n
			}
		}
	}
	h.lab.t.Fatalf("count the overruns of %s: %v: %s", h.Name, err, table)
	return 0
}

// Fragments is how many IP fragments any host or the internet of the lab has
// seen.
func (l *Lab) Fragments() uint64 {
	l.t.Helper()
	var sum uint64
	for _, h := range l.Hosts() {
		sum += h.Counter("fragments").Packets
	}
	if l.internet != nil {
		sum += l.internet.Total().Fragments
	}
	return sum
}
