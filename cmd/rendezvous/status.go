package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/share"
)

func newStatus(t *terminal) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the members, who of them is online, and what was introduced and relayed",
		Args:  ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := t.folder()
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := ops.NewClient(dir).Call(cmd.Context(), rendezvous.PathStatus, nil, &raw); err != nil {
				return err
			}
			if asJSON {
				_, err := fmt.Fprintf(t.out, "%s\n", raw)
				return err
			}
			var st rendezvous.Status
			if err := json.Unmarshal(raw, &st); err != nil {
				return fmt.Errorf("read the coordinator's status: %w; are command and coordinator of one version?", err)
			}
			_, err = io.WriteString(t.out, render(st, time.Now()))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// render is a status for people.
func render(st rendezvous.Status, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "coordinator %s, pid %d, up %v, at %s\n", st.Version, st.PID, age(now, st.Since), st.Host)
	renderDoors(&b, st.Doors)
	renderPublic(&b, st.Public)
	renderStripe(&b, st.Stripe)
	if len(st.Members) == 0 {
		b.WriteString("no members yet; `rendezvous invite` prints a join link for the first\n")
	}
	renderMembers(&b, st.Members, now)
	in := st.Introductions
	fmt.Fprintf(&b, "\nintroductions: %d made, %d answered, %d declined, %d unanswered, %d refused, %d waiting\n",
		in.Made, in.Answered, in.Declined, in.Expired, in.Refused, in.Waiting)
	fmt.Fprintf(&b, "relay: %d allocations, %d of them in use, %s in %d datagrams\n",
		st.Relay.Allocations, st.Relay.Sessions, size(st.Relay.Bytes), st.Relay.Datagrams)
	renderShare(&b, st.Share)
	fmt.Fprintf(&b, "stun: %s\ndropped: %s\n", counts(st.STUN), counts(st.Drops))
	return b.String()
}

// renderDoors says on what is listened, a line a transport, and what is not to
// be had.
func renderDoors(b *strings.Builder, doors []rendezvous.DoorStatus) {
	open := map[string][]string{}
	var problems []string
	for _, d := range doors {
		if d.Problem == "" {
			open[d.Transport] = append(open[d.Transport], d.Addr)
		} else {
			problems = append(problems, d.Transport+": "+d.Problem)
		}
	}
	for _, transport := range slices.Sorted(maps.Keys(open)) {
		fmt.Fprintf(b, "listening over %s on %s\n", transport, strings.Join(open[transport], ", "))
	}
	for _, p := range problems {
		fmt.Fprintf(b, "not listening over %s\n", p)
	}
}

// renderPublic says which ports are open to clients without an agent, a line
// each.
func renderPublic(b *strings.Builder, ports []rendezvous.PublicPortStatus) {
	for _, p := range ports {
		fmt.Fprintf(b, "public %s %d: %s of %s, %s", p.Transport, p.Port, p.Service, p.Member, number(p.Clients, "client"))
		if p.Transport == "udp" {
			fmt.Fprintf(b, ", %s", number(p.Ready, "spare"))
		}
		switch {
		case p.Silent:
			b.WriteString(", its agent does not answer")
		case !p.Online:
			b.WriteString(", its agent is not connected")
		}
		fmt.Fprintf(b, "; dropped: %s\n", counts(p.Drops))
	}
}

// renderStripe says which other ports lead here, and ends the part on ports.
func renderStripe(b *strings.Builder, s *rendezvous.StripeStatus) {
	if s != nil && !s.Applied {
		fmt.Fprintf(b, "ports are not striped: %s\n", cmp.Or(s.Problem, "not yet"))
	}
	if s != nil && s.Applied {
		for _, each := range []struct {
			name string
			lead *rendezvous.StripeLead
		}{{"udp", s.UDP}, {"tcp", s.TCP}} {
			if each.lead != nil {
				fmt.Fprintf(b, "striped over %s: %d ports of %s lead to %d; not %s\n", each.name, each.lead.Count, strings.Join(s.Addrs, ", "), each.lead.To, each.lead.LeftOut)
			}
		}
	}
	b.WriteString("\n")
}

// renderShare says who else has these ports.
func renderShare(b *strings.Builder, all []share.BackendStatus) {
	for _, s := range all {
		at := strings.TrimPrefix(strings.TrimSuffix("tcp "+s.TCP+", udp "+s.UDP, ", udp "), "tcp , ")
		var now []string
		if s.TCP != "" {
			now = append(now, number(int(s.Connections), "connection"))
		}
		if s.UDP != "" {
			now = append(now, number(int(s.Flows), "client")+" over UDP")
		}
		fmt.Fprintf(b, "shared with %s at %s: %s, %d in all", s.Name, at, strings.Join(now, ", "), s.Total)
		if s.Problem != "" {
			fmt.Fprintf(b, "; %s", s.Problem)
		}
		b.WriteString("\n")
	}
}

// number is so many of what.
func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func renderMembers(b *strings.Builder, members []rendezvous.MemberStatus, now time.Time) {
	if len(members) == 0 {
		return
	}
	w := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tSTATE\tADDRESS\tRTT\tVIA\tSINCE\tVERSION\tKEY")
	for _, m := range members {
		state, rtt, since := "offline", "", ""
		if m.Online {
			state, rtt = "online", fmt.Sprintf("%.1f ms", m.RTT)
			since = age(now, *m.Since).String()
		}
		if !m.Admitted {
			state += ", not approved"
		}
		_, _ = fmt.Fprintln(w, strings.Join([]string{m.Name, state, m.Addr, rtt, m.Transport, since, m.Version, m.Fingerprint}, "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
}

func age(now, since time.Time) time.Duration { return max(now.Sub(since), 0).Round(time.Second) }

// size is a number of bytes for people.
func size(n uint64) string {
	for _, u := range []struct {
		factor float64
		name   string
	}{{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if float64(n) >= u.factor {
			return fmt.Sprintf("%.1f %s", float64(n)/u.factor, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// counts lists what is not zero.
func counts(m map[string]uint64) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if m[name] > 0 {
			out = append(out, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	if out == nil {
		return "nothing"
	}
	return strings.Join(out, ", ")
}
