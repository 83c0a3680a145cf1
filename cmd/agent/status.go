package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

func newStatus(t *terminal) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the running agent's coordinator, services, dials and peers",
		Args:  ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.client()
			if err != nil {
				return err
			}
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(t.out, s)
			}
			writeStatus(t.out, s, t.now())
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func writeStatus(w io.Writer, s agent.Status, now time.Time) {
	head := newTable()
	head.add("agent", fmt.Sprintf("%s, pid %d, %s", s.Name, s.PID, s.Version))
	if s.Fingerprint != "" {
		head.add("fingerprint", s.Fingerprint)
	}
	head.add("coordinator", coordinatorLine(s.Coordinator))
	if s.Waiting != "" {
		head.add("waiting", s.Waiting)
	}
	for _, r := range s.Routers {
		head.add("router", routerText(r, nil))
	}
	if s.Punch != nil {
		head.add("punching", punchLine(s.Punch))
	}
	if s.FastPath != nil {
		head.add("fast path", fastPathLine(s.FastPath))
	}
	head.write(w, "")
	if len(s.Services) > 0 {
		rows := newTable("SERVICE", "URL", "FLOWS")
		for _, v := range s.Services {
			rows.add(v.Name, v.URL, strconv.Itoa(v.Flows))
		}
		fmt.Fprintln(w)
		rows.write(w, "")
	}
	writePublic(w, s.Services)
	if len(s.Dials) > 0 {
		rows := newTable("DIAL", "LISTENS ON", "FLOWS")
		for _, d := range s.Dials {
			rows.add(d.Peer+"/"+d.Service, d.Listen, strconv.Itoa(d.Flows), dialNote(d))
		}
		fmt.Fprintln(w)
		rows.write(w, "")
	}
	writePeers(w, s.Peers, now)
	if len(s.Counters) > 0 {
		rows := newTable("DROPPED", "DATAGRAMS")
		for _, reason := range slices.Sorted(maps.Keys(s.Counters)) {
			rows.add(reason, strconv.FormatUint(s.Counters[reason], 10))
		}
		fmt.Fprintln(w)
		rows.write(w, "")
	}
}

// punchLine is what punches sent beyond probes of candidates, within which bounds.
func punchLine(p *agent.PunchStatus) string {
	line := fmt.Sprintf("%d datagrams to ports foreseen or by chance; at most %d/s, %d to an address, %d an attempt", p.Sent, p.PerSecond, p.PerTarget, p.PerAttempt)
	if !p.Spray {
		line += "; no sprays"
	}
	if p.Spraying {
		line += "; spraying now"
	}
	if p.Cut > 0 {
		line += fmt.Sprintf("; %d attempts cut short", p.Cut)
	}
	if p.Refused > 0 {
		line += fmt.Sprintf("; %d refused by ICMP", p.Refused)
	}
	return line
}

// fastPathLine is what the kernel forwards, and why not more.
func fastPathLine(f *agent.FastPathStatus) string {
	switch {
	case f.Error == "":
		return fmt.Sprintf("the kernel forwards %d raw flows", f.Flows)
	case f.Flows == 0:
		return "the agent forwards all itself: " + f.Error
	}
	return fmt.Sprintf("the kernel forwards %d raw flows; not all: %s", f.Flows, f.Error)
}

// writePublic tells of the ports that the coordinator opens for clients without
// an agent.
func writePublic(w io.Writer, services []agent.ServiceStatus) {
	rows := newTable("SERVICE", "PUBLIC PORT", "CLIENTS", "IN ALL", "SPARES")
	for _, v := range services {
		p := v.Public
		switch {
		case p == nil:
		case p.State == agent.PublicOpen:
			at := strings.Join(p.Addrs, ", ")
			if at == "" {
				at = strconv.Itoa(p.Port)
			}
			rows.add(v.Name, at, strconv.Itoa(p.Clients), strconv.FormatUint(p.Total, 10), sparesOf(v), publicNote(p))
		case p.State == agent.PublicRefused:
			rows.add(v.Name, strconv.Itoa(p.Port), "-", "-", "-", "refused: "+p.Reason)
		default:
			rows.add(v.Name, strconv.Itoa(p.Port), "-", "-", "-", "the coordinator has not answered yet")
		}
	}
	if len(rows.rows) > 1 {
		fmt.Fprintln(w)
		rows.write(w, "")
	}
}

// sparesOf is how many legs stand ready for new clients; connections need none.
func sparesOf(v agent.ServiceStatus) string {
	if strings.HasPrefix(v.URL, "tcp:") {
		return "-"
	}
	return strconv.Itoa(v.Public.Spares)
}

// publicNote is what else there is to say of a public port that is open.
func publicNote(p *agent.PublicStatus) string {
	if p.Clients > 0 && p.Unanswered == p.Clients {
		return "the service has answered none of them; is it running?"
	}
	return ""
}

// dialNote is what else there is to say of a dial: the rule for its paths, the
// service's own included, and what is wrong.
func dialNote(d agent.DialStatus) string {
	var notes []string
	if len(d.Paths) > 0 {
		notes = append(notes, "over "+strings.Join(d.Paths, ", ")+" alone")
	}
	if d.Error != "" {
		notes = append(notes, d.Error)
	}
	return strings.Join(notes, "; ")
}

func coordinatorLine(c agent.CoordinatorStatus) string {
	switch {
	case c.Connected:
		over := c.Transport
		if c.Over == "faketcp" {
			over += " in fake TCP"
		}
		if c.Via != "" {
			over += " via proxy " + c.Via
		}
		return strings.TrimSuffix(fmt.Sprintf("%s over %s, %s", c.Addr, over, millis(c.RTT)), ", -") + portsNote(c)
	case c.Error != "":
		return fmt.Sprintf("%s: not connected: %s", c.Addr, c.Error)
	}
	return c.Addr + ": not connected yet"
}

// portsNote says which port relay legs over UDP go to, and what was measured of
// those that the settings prefer.
func portsNote(c agent.CoordinatorStatus) string {
	if c.RelayPort == 0 {
		return ""
	}
	note := fmt.Sprintf("; relay legs to port %d", c.RelayPort)
	measured := make([]string, 0, len(c.Ports))
	for _, p := range c.Ports {
		measured = append(measured, strings.TrimSuffix(fmt.Sprintf("%d: %d of %d, %s", p.Port, p.Answered, p.Sent, millis(p.RTT)), ", -"))
	}
	if len(measured) > 0 {
		note += " (answered on " + strings.Join(measured, "; ") + ")"
	}
	return note
}

func writePeers(w io.Writer, peers []agent.PeerStatus, now time.Time) {
	if len(peers) == 0 {
		return
	}
	rows := newTable("PEER", "PATH", "REMOTE", "RTT", "LOSS", "SENT", "RECEIVED", "WIREGUARD MTU", "SINCE")
	for _, p := range peers {
		if p.Path == "" {
			rows.add(p.Name, "none yet", "-", "-", "-", size(p.TxBytes), size(p.RxBytes), "-", "-")
			continue
		}
		rows.add(p.Name, p.Path, p.Remote, millis(p.RTT), fmt.Sprintf("%.1f %%", 100*p.Loss),
			size(p.TxBytes), size(p.RxBytes), wireGuardMTU(p.ServiceMTU), ago(now, p.Since))
	}
	fmt.Fprintln(w)
	rows.write(w, "")
	spares := newTable("PEER", "OTHER PATHS", "REMOTE", "RTT", "STATE")
	for _, p := range peers {
		for _, other := range p.Paths {
			if other.State != agent.PathBest {
				spares.add(p.Name, other.Path, orDash(other.Remote), millis(other.RTT), other.State)
			}
		}
	}
	if len(spares.rows) > 1 {
		fmt.Fprintln(w)
		spares.write(w, "")
	}
}

// wireGuardOverhead is what WireGuard adds to an IP packet to make a datagram:
// 16 bytes of header and 16 of tag (its paper, section 5.4.6).
const wireGuardOverhead = 32

// wireGuardMTU is the largest MTU of a WireGuard interface whose datagrams all
// cross whole. It need not be a multiple of 16: WireGuard pads a packet to 16
// bytes, but never beyond its MTU (calculate_skb_padding in Linux'
// drivers/net/wireguard/send.c, calculatePaddingSize in wireguard-go), so its
// largest datagram has MTU+32 bytes: 1452 at the default of 1420.
func wireGuardMTU(serviceMTU int) string {
	switch mtu := serviceMTU - wireGuardOverhead; {
	case serviceMTU == 0:
		return "-"
	case mtu < 576: // below what every IPv4 host takes (RFC 791), an MTU is a sign of trouble
		return fmt.Sprintf("none fits %d", serviceMTU)
	case mtu < 1280:
		return fmt.Sprintf("%d (IPv4 only)", mtu) // RFC 8200 section 5
	default:
		return strconv.Itoa(mtu)
	}
}
