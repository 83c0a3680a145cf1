//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The targets of a program's start and size.
const (
	startMost = 50 * time.Millisecond
	sizeMost  = 20_000_000 // bytes, stripped
	starts    = 9
)

// startUp measures from a program's start to its first answer on the control
// socket, and how large the stripped programs are.
func startUp(t netns.T, r *report) {
	l := netns.New(t)
	at, alone := l.Host("server"), l.Host("alone")
	at.Address("lo", "192.0.2.1/32")
	dir := filepath.Join(l.Dir(), "stripped")
	for _, name := range []string{"rendezvous", "agent"} {
		size, err := stripped(dir, name)
		if err != nil {
			t.Fatalf("%v", err)
		}
		r.target(size < sizeMost, name+", stripped", fmt.Sprintf("%.1f MB", float64(size)/1e6), fmt.Sprintf("under %d MB", sizeMost/1_000_000))
	}
	state := filepath.Join(l.Dir(), "coordinator")
	c := programs.Serve(t, at, state, []string{"192.0.2.1"})
	link := c.Invite()
	programs.Join(t, at, l.Dir(), "home", link)
	c.Stop()
	for _, p := range []struct {
		what  string
		on    *netns.Host
		state string
		args  []string
	}{
		{"rendezvous serve", at, state, []string{filepath.Join(dir, "rendezvous"), "serve", "--public-addr", "192.0.2.1", "--state", state}},
		{"agent up, without network", alone, filepath.Join(l.Dir(), "agent-home"), []string{filepath.Join(dir, "agent"), "up", "--state", filepath.Join(l.Dir(), "agent-home")}},
	} {
		var took []float64
		for range starts {
			one, err := answersAfter(p.on, p.state, p.args)
			if err != nil {
				t.Fatalf("start %s: %v", p.what, err)
			}
			took = append(took, one.Seconds()*1e3)
		}
		r.target(median(took) < float64(startMost.Milliseconds()), p.what+", until it answers, median of "+fmt.Sprint(starts),
			fmt.Sprintf("%.1f ms", median(took)), "under "+startMost.String())
	}
}

// stripped builds a program as packages have it, and gives its size in bytes.
func stripped(dir, name string) (int64, error) {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "rendezvous/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// answersAfter starts a program on a host, waits for its first answer and kills
// it. It is started without `ip`, which takes longer than what is measured.
func answersAfter(h *netns.Host, state string, args []string) (took time.Duration, err error) {
	cmd := exec.Command(args[0], args[1:]...)
	var log strings.Builder
	cmd.Stderr = &log
	began := time.Now()
	if err := h.Do(cmd.Start); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(state, "control.sock"))
	}}}
	defer client.CloseIdleConnections()
	for time.Since(began) < startLimit {
		answer, err := client.Post("http://control/status", "application/json", nil)
		if err == nil {
			took = time.Since(began)
			return took, answer.Body.Close()
		}
		time.Sleep(500 * time.Microsecond)
	}
	return 0, fmt.Errorf("no answer within %v: %s", startLimit, log.String())
}
