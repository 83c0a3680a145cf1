package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/icmp"
	"rendezvous/internal/meet"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
)

// punchFlags are what `agent punch` takes.
type punchFlags struct {
	peer, local  string
	at           string
	window       time.Duration
	secret       string
	stun         []string
	expose, dial []string
	icmp         bool
	json         bool
}

const punchLong = `Punch a hole to a peer without a coordinator, and carry UDP services through it
until Ctrl-C. Nothing of 'agent join' and 'agent up' is needed.

Two operators agree, by phone say, on a secret, a time, and each other's outside
address and port; --stun shows one's own, and holds it open until then. Without
--peer it is asked for once that is shown. Nothing is sent to the peer before the
time. Clocks may be some seconds apart: each side tries for a minute. Messages and
services are authenticated and sealed under the secret (Noise NNpsk0); an address
that is not the peer's gets nothing out of it.

Where nothing comes of it, this exits with 1, and says what was seen and what to do.
When the path is lost later, it is sought again for 10 minutes.

--icmp is an experiment: one side needs no address of the other. It leaves --peer
out, and sends ICMP echo requests to 192.0.2.1, where nobody is; the other side tells
it where it is, in the form of a router's "time exceeded" about such a request, which
NATs let in. Many NATs and carriers don't. The side that calls needs a public address,
or a NAT that knows the trick: Linux routers drop its message as belonging to nothing.

A time is +30s, 15:04, 15:04:05 (here), or 2006-01-02T15:04:05Z (RFC 3339).
A secret is a word, or @FILE with one in its first line: other users of this host
can read words on command lines.`

const punchExample = `  # on the machine that has the service
  agent punch --peer 198.51.100.2:40001 --at 15:30 --local :40000 --secret @word \
    --stun stun.example.org --expose wg=udp://127.0.0.1:51820

  # on the machine that uses it
  agent punch --peer 203.0.113.7:40000 --at 15:30 --local :40001 --secret @word \
    --stun stun.example.org --dial wg=udp://127.0.0.1:51821`

func newPunch(t *terminal) *cobra.Command {
	var f punchFlags
	cmd := &cobra.Command{
		Use:     "punch",
		Short:   "Reach a peer without a coordinator, at a time that both operators agree on",
		Long:    punchLong,
		Example: punchExample,
		Args:    ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(t)
			if err != nil {
				return err
			}
			if cfg.STUN, err = f.servers(cmd.Context(), t, cfg.Peer); err != nil {
				return err
			}
			if f.icmp {
				conn, err := icmp.Open()
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close() }()
				f.ring(&cfg, &meet.Bell{Conn: conn, Secret: cfg.Secret, When: cfg.When})
			}
			return t.punch(cmd.Context(), cfg, f.json)
		},
	}
	cmd.Flags().StringVar(&f.peer, "peer", "", "where the peer is seen from outside: `IP:PORT`")
	cmd.Flags().StringVar(&f.at, "at", "", "the `time` that both begin at (default at once)")
	cmd.Flags().DurationVar(&f.window, "for", time.Minute, "how `long` to try")
	cmd.Flags().StringVar(&f.local, "local", ":0", "the `[IP]:PORT` here to punch from; 0 takes any")
	cmd.Flags().StringVar(&f.secret, "secret", "", "what both know: a `WORD`, or @FILE")
	cmd.Flags().StringArrayVar(&f.stun, "stun", nil, "ask this STUN server how we are seen: `HOST[:PORT]`; twice shows whether the port depends on whom we speak to")
	cmd.Flags().StringArrayVar(&f.expose, "expose", nil, "offer a local service: `NAME=URL`; may be given again")
	cmd.Flags().StringArrayVar(&f.dial, "dial", nil, "listen for clients of the peer's service: `NAME=URL`; may be given again")
	cmd.Flags().BoolVar(&f.icmp, "icmp", false, "experimental: without --peer, wait for a call over ICMP; with it, call (Linux, CAP_NET_RAW)")
	cmd.Flags().BoolVar(&f.json, "json", false, "print a JSON object for each event, one a line")
	return cmd
}

// config checks all flags, and tells every fault at once.
func (f punchFlags) config(t *terminal) (meet.Config, error) {
	var faults []error
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	cfg := meet.Config{Network: dgram.System(dgram.DefaultOptions()), Services: forward.NewServices()}
	var err error
	switch {
	case f.peer == "" && f.icmp:
	case f.peer == "" && t.asks && !f.json:
		cfg.Learn = t.askPeer
	default:
		cfg.Peer, err = parsePeer(f.peer)
		fault(err)
	}
	cfg.Local, err = parseLocal(f.local, cfg.Peer)
	fault(err)
	if f.icmp && err == nil && (cfg.Local.Port() == 0 || cfg.Local.Addr().Is6()) {
		fault(errors.New("--icmp: it goes over IPv4, and both sides need a port that they agreed on: --local :40000"))
	}
	cfg.When.At, err = parseAt(f.at, t.now())
	fault(err)
	if cfg.When.For = f.window; f.window < 5*time.Second || f.window > time.Hour {
		fault(fmt.Errorf("--for: it is %s and must be from 5s to 1h", f.window))
	}
	cfg.Secret, err = readSecret(f.secret)
	fault(err)
	fault(f.addServices(&cfg))
	return cfg, usage(errors.Join(faults...))
}

// ring has the side that knows no address of the peer's be called, and the other
// one call.
func (f punchFlags) ring(cfg *meet.Config, bell *meet.Bell) {
	if !cfg.Peer.IsValid() {
		cfg.Learn = bell.Wait
		return
	}
	cfg.Call = func(ctx context.Context, mine netip.AddrPort) { bell.Ring(ctx, cfg.Peer.Addr(), mine) }
}

func (f punchFlags) addServices(cfg *meet.Config) error {
	var faults []error
	for _, arg := range f.expose {
		s, err := agent.ParseExposeFlag(arg)
		switch {
		case err != nil:
		case s.Scheme != "udp":
			err = fmt.Errorf("%s: without a coordinator udp:// alone is carried; for connections put WireGuard or QUIC in between", arg)
		case s.URL() != (forward.Target{Scheme: "udp", Host: s.Host, Port: s.Port}).URL():
			err = fmt.Errorf("%s: a URL takes no options here; everything crosses sealed, over the one path", arg)
		default:
			err = cfg.Services.Expose(s.Name, s.URL())
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("--expose: %w", err))
		}
	}
	for _, arg := range f.dial {
		d, err := agent.ParseDialFlag("peer/" + arg)
		switch {
		case err != nil:
			err = fmt.Errorf("%q is not NAME=URL, as in wg=udp://127.0.0.1:51821: %w", arg, err)
		case d.TCP || d.Only != 0:
			err = fmt.Errorf("%s: without a coordinator udp://IP:PORT alone is carried, without options", arg)
		default:
			cfg.Dials = append(cfg.Dials, meet.Dial{Service: d.Service, Listen: netip.MustParseAddrPort(d.Addr())})
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("--dial: %w", err))
		}
	}
	return errors.Join(faults...)
}

// servers are the addresses of the STUN servers, of the peer's family.
func (f punchFlags) servers(ctx context.Context, t *terminal, peer netip.AddrPort) (list []netip.AddrPort, err error) {
	if len(f.stun) == 0 {
		return nil, nil
	}
	all, err := t.stunServers(ctx, f.stun)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.Addr().Is4() == (peer.Addr().Is4() || !peer.IsValid()) {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return nil, ops.Failed("none of the STUN servers has an address of the family that is punched over; name another with --stun")
	}
	return list, nil
}

// punch runs the meeting, and prints what becomes of it.
func (t *terminal) punch(ctx context.Context, cfg meet.Config, asJSON bool) error {
	ops.HalfTheProcessors()
	idle := len(cfg.Services.List())+len(cfg.Dials) == 0
	cfg.Tell = func(e meet.Event) {
		if asJSON {
			_ = writeJSON(t.out, e) // nobody reads it any more
			return
		}
		writePunch(t.out, e, t.now())
		if e.What == meet.Open && idle {
			fmt.Fprintln(t.out, "        nothing is carried: give --expose on one side and --dial on the other")
		}
	}
	err := meet.Run(ctx, cfg)
	var f *path.Failure
	if !errors.As(err, &f) {
		return err
	}
	if asJSON {
		_ = writeJSON(t.out, punchFailed{t.now(), "failed", f.Reason, f.Evidence, f.Advice})
	}
	return ops.Failed("%s: %s; %s", f.Reason, f.Evidence, f.Advice)
}

// punchFailed is the last line with --json where nothing came of it.
type punchFailed struct {
	Time     time.Time `json:"time"`
	Event    string    `json:"event"`
	Reason   string    `json:"reason"`
	Evidence string    `json:"evidence"`
	Advice   string    `json:"advice"`
}

// writePunch tells of one event in a line or two.
func writePunch(w io.Writer, e meet.Event, now time.Time) {
	line := func(word, format string, args ...any) {
		fmt.Fprintf(w, "%-8s"+format+"\n", append([]any{word}, args...)...)
	}
	switch e.What {
	case meet.Listening:
		line("local", "%s", e.Local)
	case meet.Outside:
		if e.Addr == "" {
			line("outside", "not known: %s", e.Reason)
			return
		}
		line("outside", "%s, as %s sees it: what the peer gives to --peer", e.Addr, e.Server)
		if e.Varies {
			line("", "but another server sees another port: the NAT here gives each destination its own, so")
			line("", "the peer can't know ours. It works only if the peer's port lets everybody in")
		}
	case meet.Waiting:
		line("waiting", "until %s (%s UTC), %s", e.At.Format("15:04:05 MST"), e.At.UTC().Format("15:04:05"), e.At.Sub(now).Round(time.Second))
	case meet.Knocking:
		line("punch", "to %s, until %s", e.Addr, e.Until.Format("15:04:05"))
	case meet.Heard:
		line("heard", "the peer, from %s", e.Addr)
	case meet.Open:
		line("open", "to %s%s", e.Addr, roundTrip(e))
	case meet.Moved:
		line("path", "to %s%s", e.Addr, roundTrip(e))
	case meet.Lost:
		line("lost", "nothing comes from the peer any more; punching again")
	case meet.Ended:
		line("ended", "by the peer: %s", ops.Plain(e.Reason))
	}
}

func roundTrip(e meet.Event) string {
	if e.RTT == 0 {
		return ""
	}
	return ", " + millis(e.RTT)
}

// askPeer asks a person for the peer's address, which the other operator may not
// know before both programs run.
func (t *terminal) askPeer(context.Context) (netip.AddrPort, error) {
	lines := bufio.NewScanner(t.in)
	for {
		fmt.Fprint(t.err, "the peer's outside address, IP:PORT: ")
		if !lines.Scan() {
			return netip.AddrPort{}, ops.Usage("--peer is missing, and nothing was typed")
		}
		peer, err := parsePeer(strings.TrimSpace(lines.Text()))
		if err == nil && peer.Addr().Is4() {
			return peer, nil
		}
		fmt.Fprintln(t.err, "that is not IP:PORT of a host, as in 198.51.100.2:40001; for IPv6 give --peer")
	}
}

// readSecret reads a word, or @FILE.
func readSecret(arg string) (s seal.Secret, err error) {
	word := arg
	if name, ok := cutFile(arg); ok {
		b, err := os.ReadFile(name)
		if err != nil {
			return s, fmt.Errorf("--secret: %w", err)
		}
		word = firstLine(string(b))
	}
	const least = 8
	if len(word) < least {
		return s, fmt.Errorf("--secret: both sides need one of %d letters or more; here is a fresh one: --secret %s", least, seal.NewWord())
	}
	return seal.SecretOfWord(word), nil
}
