package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"rendezvous/internal/agent"
)

// checkServices looks whether what the running agent offers is there, and whether
// its public ports are open.
func checkServices(ctx context.Context, dir string) (list []finding) {
	status, err := agent.NewClient(dir).Status(ctx)
	if err != nil {
		return nil // checkDaemon says it
	}
	for _, each := range status.Services {
		s, err := agent.ParseService(each.Name, each.URL)
		if err != nil {
			continue // of another version of the agent
		}
		what := "service " + s.Name
		if err := absent(ctx, s); err != nil {
			list = append(list, finding{what, bad, fmt.Sprintf("nothing listens at %s: %v", addrOf(s), err), "start the service, or agent unexpose " + s.Name})
		} else if p := each.Public; p != nil && p.State == agent.PublicRefused {
			list = append(list, finding{what, bad, fmt.Sprintf("its public port %d is not open", p.Port), p.Reason})
		} else {
			list = append(list, finding{what, good, "offered from " + s.URL(), ""})
		}
	}
	return list
}

// checkFastPath tells what the running agent lacks to have the kernel forward raw
// flows, where its settings ask for that.
func checkFastPath(ctx context.Context, dir string) []finding {
	status, err := agent.NewClient(dir).Status(ctx)
	switch {
	case err != nil || status.FastPath == nil:
		return nil // checkDaemon says the first
	case status.FastPath.Error != "":
		return []finding{{"fast path", poor, fastPathLine(status.FastPath), "give the agent the privilege (deploy/fastpath.conf), or take fastpath out of its settings"}}
	}
	return []finding{{"fast path", good, fastPathLine(status.FastPath), ""}}
}

// absent is why nothing listens where the service should be, as far as that can be
// told without a datagram to it: of UDP, on this host alone.
func absent(ctx context.Context, s agent.Service) error {
	addr := addrOf(s)
	if s.Scheme == "tcp" {
		conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		var number syscall.Errno
		if errors.As(err, &number) {
			return number
		}
		return err
	}
	if at, ok := s.Literal(); !ok || !at.IsLoopback() {
		return nil
	}
	// The port of a service that listens can't be had.
	if conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", addr); err == nil {
		return errors.Join(errFree, conn.Close())
	}
	return nil
}

func addrOf(s agent.Service) string { return net.JoinHostPort(s.Host, fmt.Sprint(s.Port)) }

var errFree = errors.New("the port is free")
