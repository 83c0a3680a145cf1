//go:build linux

package netns_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
)

// becomeVictim makes the test binary a run of the lab that will be killed.
const becomeVictim = "RDV_LAB_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(becomeVictim) != "" {
		os.Exit(netns.Main("victim", victim))
	}
	os.Exit(netns.TestMain(m.Run, "rendezvous/internal/natlab/splitproxy"))
}

func victim(t netns.T) {
	s := netns.Standard(t, netns.DefaultOptions())
	s.Home.WireGuard("10.9.0.1/24", 0)
	fmt.Println(s.ID())
	switch os.Getenv(becomeVictim) {
	case "panic":
		panic("as asked for")
	case "fail":
		t.Fatalf("as asked for")
	}
	select {}
}

func TestNothingIsLeftHoweverTheRunEnds(t *testing.T) {
	netns.Require(t)
	for _, end := range []string{"kill", "interrupt", "panic", "fail"} {
		t.Run(end, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), becomeVictim+"="+end)
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			id, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			id = strings.TrimSpace(id)
			switch end {
			case "kill":
				err = cmd.Process.Kill()
			case "interrupt":
				err = cmd.Process.Signal(os.Interrupt)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the run says that all went well")
			}
			netns.Eventually(t, 5*time.Second, "all to be gone", func() error { return left(id) })
			logs, err := filepath.Glob(filepath.Join(os.TempDir(), "rdv-"+id+"-*"))
			if err != nil || len(logs) != 1 {
				t.Errorf("a run that failed keeps one folder of logs, not %v", logs)
			}
			for _, dir := range logs {
				os.RemoveAll(dir)
			}
		})
	}
}

func left(id string) error {
	for _, pattern := range []string{"/run/netns/rdv-" + id + "-*", "/var/run/wireguard/wg" + id + "*"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) != 0 {
			return fmt.Errorf("there are still %v", found)
		}
	}
	out, err := exec.Command("pgrep", "-f", "wg"+id).Output()
	if err == nil {
		return fmt.Errorf("wireguard-go still runs: %s", out)
	}
	return nil
}

func TestMovingToAnotherAddress(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	s.Laptop.Ping(netns.VPSAddr, time.Second)
	s.Laptop.Renumber(netns.ETH, "192.168.2.77/24")
	s.Laptop.DefaultRoute("192.168.2.1")
	s.Laptop.Ping(netns.VPSAddr, time.Second)
	s.Laptop.LinkDown(netns.ETH)
	if _, err := s.Laptop.Try("ping", "-c1", "-W1", netns.VPSAddr); err == nil {
		t.Error("ping passes without a link")
	}
	s.Laptop.LinkUp(netns.ETH)
	s.Laptop.DefaultRoute("192.168.2.1")
	s.Laptop.Ping(netns.VPSAddr, 3*time.Second)
}
