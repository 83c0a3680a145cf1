//go:build linux

package netns

import (
	"fmt"
	"strings"
	"time"
)

// MappedPublic is the public address of MappingHome's router. It is none of
// the blocks for documentation: miniupnpd maps no port where the router's
// address is of one. Nothing leaves the lab.
const MappedPublic = "198.51.101.1"

// MappedIPv6 is the address of the host of MappingHome.
const MappedIPv6 = "2001:db8:4::2"

// Mapping says which protocols a router's port mapping service speaks.
type Mapping struct {
	NoPCP, NoNATPMP, NoUPnP bool
}

// MappingHome adds a home to the scene whose router does what n says and has
// miniupnpd: host "attic" at HomeAddr behind router "mapper", 20 ms
// one way from the others. In IPv6 its
// firewall lets in what the service opens.
func (s *Scene) MappingHome(n NAT, m Mapping) (attic, router *Host) {
	s.t.Helper()
	router = s.Public("mapper", "198.51.101.0/24", MappedPublic)
	attic = s.Behind(router, "attic", HomeAddr, n, MappedPublic)
	s.publicIPv6(router, "2001:db8:4::/64")
	s.lanIPv6(router, "2001:db8:4::1", attic, MappedIPv6)
	for _, other := range []string{"vps", "laptoprouter"} {
		s.delay("mapper", other, 20*time.Millisecond)
	}
	router.miniupnpd(m)
	return attic, router
}

// chains are those that miniupnpd fills. What it lets in of IPv6 must not be
// dropped by another table, so the firewall stands here.
const chains = `table ip6 nat_lab
delete table ip6 nat_lab
table inet mapper {
 chain forward {
  type filter hook forward priority 0; policy accept;
  jump opened
  ct state established,related accept
  iifname "wan0" meta nfproto ipv6 drop
 }
 chain opened { }
 chain prerouting { type nat hook prerouting priority -100; policy accept; jump mapped; }
 chain mapped { }
 chain postrouting { type nat hook postrouting priority 100; policy accept; jump peers; }
 chain peers { }
}
`

// miniupnpd starts Debian's port mapping daemon, which runs in the foreground.
func (h *Host) miniupnpd(m Mapping) {
	h.lab.t.Helper()
	script := chains
	for version, off := range map[int]bool{2: m.NoPCP, 0: m.NoNATPMP} {
		if off { // both have one port, and one switch in the daemon
			script += fmt.Sprintf("add chain inet mapper deaf%[1]d { type filter hook input priority -1; }\n"+
				"add rule inet mapper deaf%[1]d udp dport 5351 @th,64,8 %[1]d drop\n", version)
		}
	}
	h.NFT(script)
	yes := map[bool]string{false: "yes", true: "no"}
	conf := h.lab.file(h.Name+"-miniupnpd.conf", fmt.Appendf(nil, `ext_ifname=wan0
listening_ip=lan0
enable_natpmp=%s
enable_upnp=%s
secure_mode=yes
system_uptime=no
uuid=199e2044-d8ec-4b9b-a717-20a14b1bf358
upnp_table_name=mapper
upnp_nat_table_name=mapper
upnp_forward_chain=opened
upnp_nat_chain=mapped
upnp_nat_postrouting_chain=peers
`, yes[m.NoPCP && m.NoNATPMP], yes[m.NoUPnP]))
	h.Start("miniupnpd", "-d", "-f", conf, "-P", h.lab.dir+"/"+h.Name+"-miniupnpd.pid")
	if !m.NoPCP || !m.NoNATPMP {
		h.WaitPort("udp", 5351, startLimit)
	}
	if !m.NoUPnP {
		h.WaitPort("udp", 1900, startLimit)
	}
}

// Mapped are the rules of the ports that miniupnpd leads to hosts on the LAN
// side now, and of its pinholes.
func (h *Host) Mapped() (rules []string) {
	h.lab.t.Helper()
	for _, chain := range []string{"mapped", "opened"} {
		for line := range strings.Lines(h.Run("nft", "list", "chain", "inet", "mapper", chain)) {
			if line = strings.TrimSpace(line); strings.Contains(line, "dnat") || strings.Contains(line, "accept") {
				rules = append(rules, line)
			}
		}
	}
	return rules
}
