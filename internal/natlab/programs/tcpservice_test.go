//go:build linux

package programs_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// TCP services of the tests, and where the laptop finds them.
const (
	exposeSSH = "ssh=tcp://127.0.0.1:2200"
	dialSSH   = "home/ssh=tcp://127.0.0.1:2222"
	exposeWeb = "web=tcp://127.0.0.1:8443"
	dialWeb   = "home/web=tcp://127.0.0.1:8444"
)

// noDirect has the laptop's router pass nothing between the two public
// addresses; direct takes that back.
const (
	noDirect = `table ip apart { chain c { type filter hook forward priority -200; policy accept;
 ip daddr ` + netns.HomePublic + ` drop; ip saddr ` + netns.HomePublic + ` drop; }; }`
	direct = `delete table ip apart`
)

// onDirect starts a network whose agents have a direct path.
func onDirect(t *testing.T, expose, dial string) *programs.Network {
	t.Helper()
	n := programs.Situation{Options: netns.Options{Wire: true}}.Start(t, expose, dial)
	n.Laptop.Do("ping", "home", "-c", "1")
	waitPath(n, "direct-udp")
	return n
}

func waitPath(n *programs.Network, kind string) {
	n.Laptop.WaitPath("home", kind, 15*time.Second)
	n.Home.WaitPath("laptop", kind, 15*time.Second)
}

// run starts a program on a host that is fed by hand; out is what it prints.
func run(t *testing.T, h *netns.Host, args ...string) (in io.WriteCloser, out io.Reader, cmd *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd, err := h.Command(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	if in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return in, out, cmd
}

// An SSH session and a download by curl begin over the relay and go on over the
// direct path, with no byte missing.
func TestRealConnectionsSurviveAMove(t *testing.T) {
	t.Parallel()
	n := onDirect(t, exposeSSH, dialSSH)
	n.Home.Do("expose", exposeWeb)
	n.Laptop.Do("dial", dialWeb)
	_, options := n.Scene.Home.SSHD("127.0.0.1:2200")
	n.Scene.Home.Nginx("127.0.0.1:8443", false, "home.example")
	n.LaptopRouter.Run("nft", noDirect)
	_, _ = n.Laptop.Try("ping", "home", "-c", "3") // notices it: nothing else crosses
	waitPath(n, "relay-udp")

	in, out, ssh := run(t, n.Scene.Laptop, append(append([]string{"ssh", "-p", "2222"}, options...), "root@127.0.0.1", "cat")...)
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(in, text); err != nil {
			t.Fatalf("ssh takes no more: %v", err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != text {
			t.Fatalf("ssh gives back %q: %v", got, err)
		}
	}
	say("over the relay\n")
	var many strings.Builder
	for range 20 {
		many.WriteString(curl(n))
	}
	n.LaptopRouter.Run("nft", direct)
	for began := time.Now(); time.Since(began) < 3*time.Second; {
		say("on the way\n")
		many.WriteString(curl(n))
	}
	waitPath(n, "direct-udp")
	say("directly\n")
	many.WriteString(curl(n))
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := ssh.Wait(); err != nil {
		t.Errorf("ssh ends with %v", err)
	}
	if text := many.String(); strings.Count(text, "website") < 30 || strings.Contains(text, "curl") {
		t.Errorf("curl got %q", text)
	}
}

// curl fetches nginx's page on the laptop, or says what went wrong.
func curl(n *programs.Network) string {
	out, err := n.Scene.Laptop.Try("curl", "-sS", "-k", "-m", "10", "https://127.0.0.1:8444/")
	if err != nil {
		return "curl: " + err.Error()
	}
	return out
}

// scpSize is how much is copied, in MiB: RENDEZVOUS_SCP_MIB, else what makes a
// short test.
func scpSize(t *testing.T) int {
	text := os.Getenv("RENDEZVOUS_SCP_MIB")
	if text == "" {
		return 64
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("RENDEZVOUS_SCP_MIB is %q, and must be a number of MiB", text)
	}
	return n
}

// scp copies a file through a TCP service while its path moves three times:
// the copy is right, and it never stands still for 2 s.
func TestCopySurvivesThreeMoves(t *testing.T) {
	t.Parallel()
	n := onDirect(t, exposeSSH, dialSSH)
	_, options := n.Scene.Home.SSHD("127.0.0.1:2200")
	size := scpSize(t) << 20
	from, to := filepath.Join(n.Dir(), "original"), filepath.Join(n.Dir(), "copy")
	sum := writeNoise(t, from, size)

	// At this pace it takes a quarter of a minute, time for the moves.
	const pace = 15
	limit := strconv.Itoa(size / pace * 8 / 1000)
	began := time.Now()
	in, _, scp := run(t, n.Scene.Laptop, append(append([]string{"scp", "-l", limit, "-P", "2222"}, options...), from, "root@127.0.0.1:"+to)...)
	_ = in.Close()
	ended := make(chan error, 1)
	go func() { ended <- scp.Wait() }()
	grown := make(chan pause, 1)
	stop := make(chan struct{})
	go func() { grown <- longestPause(to, int64(size), stop) }()
	netns.Eventually(t, 10*time.Second, "the copy to begin", func() error { _, err := os.Stat(to); return err })
	for i, kind := range []string{"relay-udp", "direct-udp", "relay-udp"} {
		time.Sleep(2 * time.Second)
		script := noDirect
		if kind == "direct-udp" {
			script = direct
		}
		n.LaptopRouter.Run("nft", script)
		moved := time.Since(began)
		waitPath(n, kind)
		t.Logf("at %v the way is another; on %s at %v", moved, kind, time.Since(began))
		if len(ended) > 0 {
			t.Errorf("the copy ended before the move %d", i+1)
		}
	}
	if err := <-ended; err != nil {
		t.Fatalf("scp: %v", err)
	}
	close(stop)
	longest := <-grown
	t.Logf("%d MiB in %v; the longest pause was %v, until %v", size>>20, time.Since(began).Round(time.Millisecond), longest.lasted, longest.ended.Sub(began))
	if longest.lasted > 2*time.Second {
		t.Errorf("the copy stood still for %v", longest.lasted)
	}
	if got := sumOf(t, to); got != sum {
		t.Errorf("the copy differs: %x, not %x", got, sum)
	}
}

// pause is a time without progress.
type pause struct {
	lasted time.Duration
	ended  time.Time
}

// longestPause is the longest time for which a file did not grow until it had
// its size.
func longestPause(name string, size int64, stop <-chan struct{}) (longest pause) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last int64
	var at time.Time // of the last growth
	for last < size {
		select {
		case <-stop:
			return longest
		case <-tick.C:
		}
		st, err := os.Stat(name)
		if err != nil {
			continue
		}
		now := time.Now()
		if at.IsZero() || st.Size() > last {
			at = now
		}
		last = st.Size()
		if d := now.Sub(at); d > longest.lasted {
			longest = pause{d, now}
		}
	}
	return longest
}

func writeNoise(t *testing.T, name string, size int) (sum [32]byte) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8([32]byte{1}), int64(size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	h.Sum(sum[:0])
	return sum
}

func sumOf(t *testing.T, name string) (sum [32]byte) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	h.Sum(sum[:0])
	_ = f.Close()
	return sum
}

// TCP through a service gets at least a fair part of what it gets directly
// through the same NATs; the bench asks for half (make bench).
func TestTCPServiceIsFast(t *testing.T) {
	n := programs.Situation{Options: programs.SpeedOptions()}.Start(t, programs.SpeedExpose, programs.SpeedDial)
	n.Offload(false)
	n.Laptop.Do("ping", "home", "-c", "1")
	waitPath(n, "direct-udp")
	time.Sleep(2 * time.Second) // in which the path's size is found
	s := n.MeasureTCP(3 * time.Second)
	t.Logf("directly %.0f Mbit/s, through the service %.0f: %.2f", s.Direct, s.Service, s.Service/s.Direct)
	if s.Service < s.Direct/5 {
		t.Error("that is too slow")
	}
}

// A browser and an SSH client without an agent reach home at public ports of the
// coordinator; the website knows where the browser is. S3-01, S3-22
func TestPublicTCPPorts(t *testing.T) {
	t.Parallel()
	s := netns.Standard(t, netns.DefaultOptions())
	c := programs.Serve(t, s.VPS, filepath.Join(s.Dir(), "coordinator"), []string{netns.VPSAddr}, "--publish", "9000-9010")
	s.Home.Nginx("127.0.0.1:8443", true, "home.example")
	_, options := s.Home.SSHD("127.0.0.1:2200")
	home := programs.Join(t, s.Home, s.Dir(), "home", c.Invite())
	home.Up("--expose", exposeWeb+"?public=9001&proxy", "--expose", exposeSSH+"?public=9002")
	netns.Eventually(t, 10*time.Second, "the website", func() error {
		_, err := s.Laptop.Try("curl", "-sS", "-k", "-m", "5", "https://"+netns.VPSAddr+":9001/")
		return err
	})
	page := s.Laptop.Run("curl", "-sS", "-k", "-m", "5", "https://"+netns.VPSAddr+":9001/")
	if !strings.Contains(page, netns.LaptopPublic) {
		t.Errorf("the page is %q", page)
	}
	const size = 20_000_000
	out := s.Laptop.Run(append(append([]string{"ssh", "-p", "9002"}, options...), "root@"+netns.VPSAddr, fmt.Sprintf("head -c %d /dev/zero", size))...)
	if len(out) != size {
		t.Errorf("ssh brings %d bytes of %d", len(out), size)
	}
}

// Where data takes a TCP connection between the agents, so does what a TCP
// service carries, as a stream of bytes and not as datagrams that are dropped.
func TestTCPServiceOverTCPBetweenPeers(t *testing.T) {
	n := programs.Situation{Options: programs.SpeedOptions(), Paths: "direct-tcp,relay-tls"}.Start(t, programs.SpeedExpose, programs.SpeedDial)
	n.Offload(false)
	n.Laptop.Do("ping", "home", "-c", "1")
	waitPath(n, "direct-tcp")
	for _, options := range [][]string{nil, {"-R"}, {"-P", "4"}} {
		s := n.MeasureTCP(2*time.Second, options...)
		t.Logf("%v: directly %.0f Mbit/s, over the service %.0f Mbit/s: %.2f times", options, s.Direct, s.Service, s.Service/s.Direct)
		if s.Service < 100 {
			t.Error("that is too slow")
		}
	}
	p, err := n.Laptop.Peer("home")
	if err != nil || p.Path != "direct-tcp" {
		t.Errorf("the path is %q in the end (%v)", p.Path, err)
	}
}
