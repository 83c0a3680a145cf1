package pairs

// Weight is how many of all hosts are of a kind, in per cent.
type Weight struct {
	Kind  string
	Share float64
	Of    string // the class of hosts, and how its share is split
	Home  bool   // its own router is next to the internet: UPnP and PCP are of use there
}

// Source is where the weights are from.
const Source = `Shares of classes: homes 60 %, homes behind a carrier's NAT 15 %, cellular 20 %, public 2 %, UDP blocked or only TCP 443 3 %.
Dependent mapping in 11 % of hosts (Halkes and Pouwelse, Networking 2011; the same follows from Trautwein et al., arXiv 2510.27500 and 2604.12484): under 2 %
of home routers, 11 % of carriers' NATs for fixed lines, 40 % of cellular ones; of the latter 45 % choose any port, 26 % the next one, 29 % the
same (Richter et al., IMC 2016, arXiv 1605.05606). A quarter of NATs forgets a UDP mapping after 30 s (the same). How filtering, not preserved
ports and what becomes of unsolicited datagrams are split within a class is nowhere published; those splits are estimates.`

// Weights are by class. They sum to about 100; whoever uses them divides by
// the sum.
func Weights() []Weight {
	return []Weight{
		{"ei-apd", 27, "homes, the usual router: 45, less the three below", true},
		{"30s", 9, "of these: a quarter forgets mappings after 30 s", true},
		{"accepts", 4.5, "of these: unsolicited datagrams are accepted", true},
		{"rejects", 4.5, "of these: they are answered", true},
		{"ei-ei", 7.2, "homes", true},
		{"ei-ad", 4.8, "homes", true},
		{"ei-apd-random", 1.8, "homes", true},
		{"apd-apd-random", 0.6, "homes: half of 1.2", true},
		{"apd-apd-seq", 0.6, "homes: the other half", true},
		{"cgn+home", 9, "homes behind a carrier's NAT", false},
		{"cgn-open+home", 4.4, "homes behind a carrier's NAT", false},
		{"cgn-random+home", 0.825, "homes behind a carrier's NAT of dependent mapping, 1.65: half any port of a block", false},
		{"cgn-seq+home", 0.4125, "of these: a quarter the next port", false},
		{"cgn+apd", 0.4125, "of these: a quarter the same port", false},
		{"ei-ei", 4, "cellular", false},
		{"ei-apd-random", 5.68, "cellular, independent mapping, 8: all whose ports are not preserved", false},
		{"ei-apd", 2.32, "of these: 29 % preserved", false},
		{"apd-apd-random", 2.88, "cellular, dependent mapping, 8: 45 % any port, of which 80 % with 2,048 sessions or more", false},
		{"apd-apd-random-512", 0.72, "of these: 15 % with 512, 5 % with fewer", false},
		{"apd-apd-seq", 2.08, "of these: 26 % the next port", false},
		{"apd-apd", 2.32, "of these: 29 % the same port", false},
		{"public", 2, "public", false},
		{"no-udp", 1.8, "UDP blocked", false},
		{"https-only", 1.2, "only TCP 443", false},
	}
}

// Help is what hosts have besides their NAT, as shares of 1.
type Help struct {
	// Mapping is the share of homes whose router answers UPnP, PCP or NAT-PMP.
	Mapping float64
	// IPv6 is the share of hosts that have it.
	IPv6 float64
}

// HelpSource says where PublishedHelp is from, and how it is used.
const HelpSource = `Port mapping: UPnP or PCP answers in 35-40 % of homes (measurements of 2011 to 2015), 17 % of these behind a carrier's NAT, where it is of no use:
so 37.5 % of homes without a carrier's NAT have it, and such a host counts as ei-ei, since a mapped port lets anybody in. IPv6: 47 % of hosts, between what Google
(50 %), APNIC (43-44 %) and Cloudflare (40 %) see in 2026. Two hosts that both have it (drawn independently, and neither without UDP) reach each
other as ipv6 × ipv6 does, or else by IPv4.`

// PublishedHelp is how common both are.
func PublishedHelp() Help { return Help{Mapping: 0.375, IPv6: 0.47} }

// mapped is the kind that a host with a mapped port is like, and six the one of
// IPv6.
const (
	mapped = "ei-ei"
	six    = "ipv6"
)

// Total is the share of pairs that go directly, hosts drawn independently by
// weight, given the share of each two kinds.
func Total(weights []Weight, h Help, share func(a, b string) float64) float64 {
	sum, total := 0.0, 0.0
	for _, w := range weights {
		sum += w.Share
	}
	for _, a := range weights {
		for _, b := range weights {
			total += a.Share * b.Share / (sum * sum) * h.pair(a, b, share)
		}
	}
	return total
}

// Missing is what keeps the rest of all pairs from a direct path, as shares of
// all pairs by reason (see Why); "" is that of pairs which nothing forbids.
func Missing(weights []Weight, share func(a, b string) float64) map[string]float64 {
	sum, missing := 0.0, make(map[string]float64)
	for _, w := range weights {
		sum += w.Share
	}
	for _, x := range weights {
		for _, y := range weights {
			a, _ := Find(x.Kind)
			b, _ := Find(y.Kind)
			if lost := x.Share * y.Share / (sum * sum) * (1 - share(a.Name, b.Name)); lost > 0 {
				missing[Why(a, b)] += lost
			}
		}
	}
	return missing
}

// pair is the share of two classes.
func (h Help) pair(a, b Weight, share func(a, b string) float64) float64 {
	direct := 0.0
	for _, x := range h.guises(a) {
		for _, y := range h.guises(b) {
			direct += x.Share * y.Share * share(x.Kind, y.Kind)
		}
	}
	if blocked(a.Kind) || blocked(b.Kind) {
		return direct
	}
	both := h.IPv6 * h.IPv6
	return (1-both)*direct + both*(1-(1-direct)*(1-share(six, six)))
}

// guises are a class with and without a mapped port.
func (h Help) guises(w Weight) []Weight {
	if !w.Home || h.Mapping == 0 {
		return []Weight{{Kind: w.Kind, Share: 1}}
	}
	return []Weight{{Kind: w.Kind, Share: 1 - h.Mapping}, {Kind: mapped, Share: h.Mapping}}
}

func blocked(kind string) bool {
	k, ok := Find(kind)
	return ok && k.NoUDP
}
