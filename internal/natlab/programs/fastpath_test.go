//go:build linux

package programs_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

const exposeRaw, dialRaw = "echo=udp://" + sinkAddr + "?raw", "home/echo=udp://" + loadAddr

// fast is two agents whose kernels forward a raw flow, and the load that it is of.
func fast(t *testing.T, o netns.Options, echoes string) (*programs.Network, programs.LoadRun) {
	t.Helper()
	n := programs.Situation{Options: o, Flags: []string{"--fastpath"}}.Start(t, exposeRaw, dialRaw)
	programs.Sink(n.Scene.Home, sinkAddr)
	load := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "1000", "-n", echoes, "-interval", "1ms")
	forwarding(t, n)
	return n, load
}

func forwarding(t *testing.T, n *programs.Network) {
	t.Helper()
	n.Laptop.WaitFastPath(1, 10*time.Second)
	n.Home.WaitFastPath(1, 10*time.Second)
}

// attached is how many programs stand at a host's interfaces.
func attached(t *testing.T, h *netns.Host) (programs int) {
	t.Helper()
	err := h.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				found, e := link.QueryPrograms(link.QueryOptions{Target: i.Index, Attach: at})
				if e != nil {
					err = errors.Join(err, fmt.Errorf("ask for the programs at %s: %w", i.Name, e))
					continue
				}
				programs += len(found.Programs)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return programs
}

// A raw flow in use goes through the kernel on both sides, whole and unchanged,
// and costs the agents next to nothing. What is too large for the path is the
// agents'. A kill leaves nothing in the kernel, and the next start is as the first.
func TestKernelForwardsRawFlows(t *testing.T) {
	n, load := fast(t, netns.Options{Wire: true}, "2000")
	time.Sleep(200 * time.Millisecond)
	before := n.Laptop.CPU() + n.Home.CPU()
	var p programs.Pings
	load.Result(&p, 10*time.Second)
	used := n.Laptop.CPU() + n.Home.CPU() - before
	t.Logf("the agents used %v; %+v", used, p)
	if used > 200*time.Millisecond || p.Answered < p.Sent-5 || p.Duplicates > 0 {
		t.Errorf("the agents used %v of about 1 s; %+v", used, p)
	}
	var r programs.Rate
	programs.Load(t, n.Scene.Laptop, &r, "rate", "-to", loadAddr, "-rate", "10000", "-burst", "16", "-check")
	if r.Wrong > 0 || r.Duplicates > 0 || r.Loss > 0.01 {
		t.Errorf("bursts: %+v", r)
	}
	programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", loadAddr, "-size", "5000", "-n", "100", "-interval", "1ms")
	if p.Answered < p.Sent-1 {
		t.Errorf("datagrams of 5000 bytes: %+v", p)
	}
	if attached(t, n.Scene.Laptop) == 0 || attached(t, n.Scene.Home) == 0 {
		t.Error("no program is attached: the test tests nothing")
	}
	load = programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "1000", "-n", "8000", "-interval", "1ms")
	forwarding(t, n)
	n.Laptop.Kill()
	n.Home.Kill()
	netns.Eventually(t, time.Second, "nothing of ours in the kernel", func() error {
		if l, h := attached(t, n.Scene.Laptop), attached(t, n.Scene.Home); l+h > 0 {
			return fmt.Errorf("%d programs at the laptop's interfaces, %d at home's", l, h)
		}
		return nil
	})
	if left, err := os.ReadDir("/sys/fs/bpf"); err == nil && len(left) > 0 {
		t.Errorf("%s is pinned", left[0].Name())
	}
	n.Home.Up("--fastpath", "--expose", exposeRaw)
	n.Laptop.Up("--fastpath", "--dial", dialRaw)
	forwarding(t, n)
	load.Kill()
}

// A path that is cut gives the datagrams back to the agents, which take another;
// once it heals, or another direct one is found, the kernel has them again.
func TestKernelGivesBackWhatItCannotCarry(t *testing.T) {
	netns.Require(t)
	for name, c := range map[string]struct {
		change, back func(n *programs.Network)
	}{
		"the path is cut, and heals": {
			func(n *programs.Network) {
				n.LaptopRouter.NFT("add table ip cut; add chain ip cut way { type filter hook forward priority 0; }; " +
					"add rule ip cut way meta l4proto udp ip daddr " + netns.HomePublic + " drop; add rule ip cut way meta l4proto udp ip saddr " + netns.HomePublic + " drop")
			},
			func(n *programs.Network) { n.LaptopRouter.NFT("delete table ip cut") },
		},
		"the laptop has another address": {
			func(n *programs.Network) {
				n.Scene.Laptop.Renumber(netns.ETH, "192.168.2.77/24")
				n.Scene.Laptop.DefaultRoute("192.168.2.1")
			}, nil,
		},
		"the NAT gives another port": {
			func(n *programs.Network) {
				n.LaptopRouter.SetNAT(netns.CarrierGrade(30000, 30999), netns.WAN, netns.LAN, netns.LaptopPublic)
				n.LaptopRouter.FlushConntrack()
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, load := fast(t, netns.Options{Wire: true}, "5000")
			c.change(n)
			if c.back != nil {
				n.Laptop.WaitFastPath(0, 3*time.Second)
				n.Home.WaitFastPath(0, 3*time.Second)
				c.back(n)
			} else {
				time.Sleep(500 * time.Millisecond)
			}
			forwarding(t, n)
			var p programs.Pings
			load.Result(&p, 20*time.Second)
			t.Logf("%+v", p)
			if p.LongestGap > 2000 || p.Answered == 0 {
				t.Errorf("traffic stood still for %.0f ms; %d of %d answered", p.LongestGap, p.Answered, p.Sent)
			}
		})
	}
}

// Client and service may be on other hosts of the agents' networks: then both ways
// of a flow cross one interface.
func TestKernelForwardsForOtherHosts(t *testing.T) {
	t.Parallel()
	const service, listens = "192.168.1.3:9000", netns.LaptopAddr + ":9001"
	n := programs.Situation{Options: netns.Options{Wire: true}, Flags: []string{"--fastpath"}}.Open(t)
	athome := n.Scene.Beside(n.HomeRouter, "athome", netns.ETH, "192.168.1.3")
	sofa := n.Scene.Beside(n.LaptopRouter, "sofa", netns.ETH, "192.168.2.3")
	programs.Sink(athome, service)
	n.Home = programs.Join(t, n.Scene.Home, n.Dir(), "home", n.Coordinator.Invite())
	n.Home.Up("--fastpath", "--expose", "echo=udp://"+service+"?raw")
	n.Laptop = programs.Join(t, n.Scene.Laptop, n.Dir(), "laptop", n.Home.Do("invite"))
	n.Laptop.Up("--fastpath", "--dial", "home/echo=udp://"+listens)
	load := programs.StartLoad(t, sofa, "ping", "-to", listens, "-size", "1000", "-n", "2500", "-interval", "1ms")
	forwarding(t, n)
	var r programs.Rate
	programs.Load(t, sofa, &r, "rate", "-to", listens, "-rate", "10000", "-burst", "16", "-check")
	var p programs.Pings
	load.Result(&p, 10*time.Second)
	if p.Answered < p.Sent-1 || p.Duplicates > 0 || r.Wrong > 0 || r.Loss > 0.01 {
		t.Errorf("%+v, %+v", p, r)
	}
}

// Without the privilege the agent says so, and works as before.
func TestFastPathWithoutPrivilege(t *testing.T) {
	t.Parallel()
	n := programs.Situation{Options: netns.Options{Wire: true}, Flags: []string{"--fastpath"}, Arrange: func(*netns.Scene) (home, laptop netns.Guise) {
		return netns.Guise{}, netns.Guise{Unprivileged: true}
	}}.Start(t, exposeRaw, dialRaw)
	n.Reach(t, sinkAddr, loadAddr, "direct-udp")
	if s := n.Laptop.Status(); s.FastPath.Flows != 0 || s.FastPath.Error == "" {
		t.Errorf("status says of the fast path: %+v", s.FastPath)
	}
}
