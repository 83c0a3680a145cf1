// Package natlab is an internet of NATs and links in memory, on which whole
// agents and coordinators run in tests. It is for tests only.
//
//	synctest.Test(t, func(t *testing.T) {
//		lab := natlab.New(t, natlab.Options{})
//		vps := lab.Host("vps", "203.0.113.10", natlab.Delay(20*time.Millisecond))
//		carrier := lab.NAT("carrier", "198.51.100.1", natlab.Carrier())
//		router := carrier.NAT("router", "100.64.0.2", natlab.Home())
//		home := router.Host("home", "192.168.1.2")
//		conn, err := home.ListenUDP(netip.MustParseAddrPort("0.0.0.0:0"))
//		...
//		carrier.Flush()                     // conntrack -F
//		home.Set(natlab.Loss(0.3))          // from now on
//		home.MoveTo(lab, "203.0.113.77")    // another network
//		router.Unplug()                     // the cable
//	})
//
// # Time
//
// It lives by package time and starts no goroutine of its own, so it runs in
// virtual time inside a testing/synctest bubble; make the lab inside the
// bubble. A blocked Read is durably blocked. When the test ends the lab closes
// all its sockets: cleanup functions run inside the bubble, last registered
// first, so agents whose t.Cleanup was registered after New are stopped before
// the lab is.
//
// # What it models
//
// Each host and NAT has one link to its network, with the conditions of the
// options Delay, Jitter, Loss, Reorder, Duplicate, Bandwidth and MTU; delays
// add up over the way. Between two public networks there are Options.Hops
// further routers. Each router and NAT takes one from the TTL; what expires
// vanishes. Nothing is fragmented. A burst arrives as one burst unless loss,
// reordering or a limited bandwidth takes it apart.
//
// A NAT keeps flows the way Linux's connection tracking does, with a Behaviour
// in the words of RFC 4787. IPv6 prefixes (option Prefix) pass it untranslated
// but filtered. A host reaches itself by 127.0.0.0/8, ::1 and its own
// addresses, without delay. A router that answers port mapping protocols is a
// host behind its NAT ("192.168.1.1") whose service calls NAT.Publish. ICMP is not modelled:
// no UDP socket that agents use hears it.
//
// # TCP
//
// A Host is a dgram.Streams and a dgram.FakeTCP too; what leaves them are
// segments, which take the same ways as datagrams.
//
//	quiet := natlab.Home().WithTCP(func(b *natlab.Behaviour) { b.Unsolicited = natlab.RejectUnsolicited })
//	office := lab.NAT("office", "198.51.100.2", quiet, natlab.NoUDP(true), natlab.TCPPorts(80, 443))
//	desk := office.Host("desk", "192.168.2.2")
//	ln, err := vps.ListenTCP(netip.MustParseAddrPort("0.0.0.0:443"))
//	fake, err := vps.ListenFakeTCP(netip.MustParseAddrPort("0.0.0.0:443"), ln) // beside the listener
//	c, err := desk.DialTCP(ctx, netip.AddrPort{}, netip.MustParseAddrPort("203.0.113.10:443"))
//	office.Set(natlab.NoUDP(false), natlab.UDPLoss(0.3), natlab.UDPBandwidth(1e6, 100*time.Millisecond)) // TCP is spared
//	office.Set(natlab.NoInboundSYN(true))
//	lab.Segments(natlab.Sent, "desk", natlab.TCPReset) // how many RST the desk sent
//
// A stream has a kernel's handshake (simultaneous open included, SYN at 0, 1
// and 3 s), retransmissions after 200 ms or two round trips or three later
// segments, congestion and receive windows, FIN, RST, and UserTimeout. Its
// net.Conn has SetLinger and CloseWrite as *net.TCPConn does. Keepalives and
// TIME_WAIT are not modelled.
//
// Fake TCP is what package faketcp shows to a network: a handshake, then
// datagrams one to one, none repeated, 12 bytes more each. After 3 s of silence
// a Write sends a SYN too. It has no numbers, so no box checks them.
//
// NATs keep tables of their own for TCP, which behave as for UDP unless
// Behaviour.TCP says otherwise, and live longer. To a SYN for nobody they
// answer with RST if their Unsolicited is not DropUnsolicited. An RST ends a
// mapping that has not been answered yet. Segments that fit no state are
// dropped as DropInvalid.
//
// Virtual time stands still while a goroutine waits for a mutex, if whoever
// holds it waits for the network. So make TLS's handshake before two
// goroutines use the connection. To help with the rest (yamux holds a mutex
// until a frame is whole), what was written at one instant can be read only
// when all of it has come.
//
// # What a test can ask
//
// SentTo, Targets, Count, Dropped, First and Watch answer questions about all
// datagrams since the beginning. When a test fails, the lab prints its seed and
// draws the last datagrams as a sequence diagram.
package natlab
