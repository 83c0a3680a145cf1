//go:build linux

// The program throng is thousands of agents before one coordinator, as far as
// that sees them: each has a key and a control connection of its own, registers,
// shows that it is there, comes back after a loss with an agent's patience, and
// takes part in introductions. They have no sessions with each other.
//
//	throng enrol -state DIR -n N       make them members in the coordinator's registry, which nobody has open
//	throng run   -state DIR -to ADDR   be them
//	throng ask   -state DIR PATH JSON  tell those of a running process what to do; see orders
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "throng:", err)
		os.Exit(1)
	}
}

// options are the flags of both modes.
type options struct {
	state   string // of the coordinator for enrol, else our own
	count   int
	first   int
	to      netip.AddrPort
	pin     string
	sources netip.Prefix
	each    int
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say enrol, run or ask; throng MODE -h lists a mode's flags")
	}
	o := options{}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.StringVar(&o.state, "state", "", "`folder` of the coordinator's registry (enrol), or of our control socket (run)")
	f.IntVar(&o.count, "n", 1000, "`members` to enrol")
	f.IntVar(&o.first, "first", 0, "`number` of the first agent that this process is")
	f.TextVar(&o.to, "to", netip.AddrPort{}, "`address:port` of the coordinator")
	f.StringVar(&o.pin, "pin", "", "`SHA-256` of the coordinator's key, as enrol prints it")
	f.TextVar(&o.sources, "sources", netip.MustParsePrefix("127.0.0.1/32"), "`prefix` of the addresses that agents come from, all of this host's")
	f.IntVar(&o.each, "each", 10, "`agents` that share a socket")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case o.state == "":
		return errors.New("-state is missing")
	case args[0] == "enrol":
		return enrol(o.state, o.count)
	case args[0] == "run":
		return serve(ctx, o)
	case args[0] == "ask" && f.NArg() == 2:
		return ask(ctx, o.state, f.Arg(0), f.Arg(1))
	}
	return fmt.Errorf("there is no mode %q of %d words; say enrol, run or ask PATH JSON", args[0], f.NArg())
}

// ask gives an order to a running throng, and prints what it answers.
func ask(ctx context.Context, state, path, order string) error {
	var answer json.RawMessage
	if err := ops.NewClient(state).Call(ctx, path, json.RawMessage(order), &answer); err != nil {
		return err
	}
	_, err := fmt.Println(string(answer))
	return err
}

// enrol makes members of a registry, and prints the coordinator's pin.
func enrol(state string, count int) (err error) {
	registry, err := rendezvous.OpenRegistry(state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	if err := enrolAll(registry, count); err != nil {
		return err
	}
	pin, err := registry.Pin()
	fmt.Printf("%x\n", pin)
	return err
}
