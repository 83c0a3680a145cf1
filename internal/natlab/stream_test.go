package natlab

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

func listenTCP(t *testing.T, h *Host, addr string) net.Listener {
	t.Helper()
	ln, err := h.ListenTCP(netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// dial connects from a local address within a limit of time.
func dial(h *Host, local, remote string, limit time.Duration) (net.Conn, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	start := time.Now()
	c, err := h.DialTCP(ctx, netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote))
	return c, time.Since(start), err
}

// connect makes a connection to a listener: both ends.
func connect(t *testing.T, h *Host, ln net.Listener, remote string) (client, server net.Conn) {
	t.Helper()
	client, _, err := dial(h, "0.0.0.0:0", remote, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// exchange sends a word in each direction.
func exchange(t *testing.T, a, b net.Conn) {
	t.Helper()
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := c[0].Write([]byte("word")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(c[1], got); err != nil || string(got) != "word" {
			t.Fatalf("received %q: %v", got, err)
		}
	}
}

// bulk sends n random bytes from a to b and says how long they took.
func bulk(t *testing.T, a, b net.Conn, n int) time.Duration {
	t.Helper()
	sent := make([]byte, n)
	_, _ = mathrand.NewChaCha8([32]byte{1}).Read(sent)
	start := time.Now()
	wrote := make(chan error, 1)
	go func() {
		_, err := a.Write(sent)
		wrote <- err
	}()
	got := make([]byte, n)
	if _, err := io.ReadFull(b, got); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Fatal("what arrived is not what was sent")
	}
	return time.Since(start)
}

func TestStreamTakesRoundTrips(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10", Delay(20*time.Millisecond))
		home := l.NAT("router", "198.51.100.1", Home(), Delay(5*time.Millisecond)).Host("home", "192.168.1.2", Delay(0))
		ln := listenTCP(t, vps, "0.0.0.0:443")
		client, took, err := dial(home, "0.0.0.0:4000", "203.0.113.10:443", time.Second)
		if err != nil || took != 50*time.Millisecond {
			t.Fatalf("connected after %v: %v", took, err)
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if server.RemoteAddr().String() != "198.51.100.1:4000" || client.LocalAddr().String() != "192.168.1.2:4000" {
			t.Errorf("addresses are %v and %v", server.RemoteAddr(), client.LocalAddr())
		}
		start := time.Now()
		exchange(t, client, server)
		if took := time.Since(start).Truncate(time.Microsecond); took != 50*time.Millisecond {
			t.Errorf("there and back took %v", took)
		}
		_, _ = client.Write([]byte("last words"))
		_ = client.Close()
		if got, err := io.ReadAll(server); string(got) != "last words" || err != nil {
			t.Errorf("read %q, %v before the end", got, err)
		}
		_ = server.Close()
		time.Sleep(time.Second)
		if _, _, err := dial(home, "0.0.0.0:4000", "203.0.113.10:443", time.Second); err != nil {
			t.Errorf("the same ports can't be used again: %v", err)
		}
	})
}

func TestStreamDeliversAllInOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		most  time.Duration
		links []Option
	}{
		{"clean", 300 * time.Millisecond, nil},
		{"loss", 30 * time.Second, []Option{Loss(0.05)}},
		{"reorder and duplicate", 20 * time.Second, []Option{Reorder(0.05, 3*time.Millisecond), Duplicate(0.05), Jitter(time.Millisecond)}},
		{"1 MB/s", 2 * time.Second, []Option{Bandwidth(8e6, 50*time.Millisecond)}},
		{"small MTU", 300 * time.Millisecond, []Option{MTU(1280)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				vps := l.Host("vps", "203.0.113.10")
				home := l.NAT("router", "198.51.100.1", Home(), c.links...).Host("home", "192.168.1.2")
				client, server := connect(t, home, listenTCP(t, vps, "0.0.0.0:443"), "203.0.113.10:443")
				for _, d := range [][2]net.Conn{{client, server}, {server, client}} {
					took := bulk(t, d[0], d[1], 1<<20)
					t.Logf("1 MiB took %v", took)
					if took > c.most {
						t.Errorf("1 MiB took %v, more than %v", took, c.most)
					}
				}
			})
		})
	}
}

// A lost segment holds up what is behind it.
func TestStreamLossDelaysWhatFollows(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		client, server := connect(t, home, listenTCP(t, vps, "0.0.0.0:443"), "203.0.113.10:443")
		lost := false
		home.DropWhen(func(_, _ netip.AddrPort, d []byte) bool {
			drop := string(d) == "a" && !lost
			lost = lost || drop
			return drop
		})
		start := time.Now()
		_, _ = client.Write([]byte("a"))
		time.Sleep(time.Millisecond)
		_, _ = client.Write([]byte("b"))
		got := make([]byte, 2)
		if _, err := io.ReadFull(server, got); err != nil || string(got) != "ab" {
			t.Fatalf("received %q, %v", got, err)
		}
		if took := time.Since(start).Truncate(time.Microsecond); took != 210*time.Millisecond {
			t.Errorf("it took %v, want the least retransmission time and the way", took)
		}
	})
}

func TestStreamRefused(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		_, took, err := dial(home, "0.0.0.0:0", "203.0.113.10:443", time.Second)
		if !errors.Is(err, syscall.ECONNREFUSED) || took != 20*time.Millisecond {
			t.Errorf("nobody listening gave %v after %v", err, took)
		}
		if n := l.Segments(Sent, "vps", TCPReset); n != 1 || l.Dropped(DropReset) != 1 {
			t.Errorf("%d RST were sent", n)
		}
		_, took, err = dial(home, "0.0.0.0:0", "203.0.113.99:443", 5*time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || took != 5*time.Second {
			t.Errorf("nobody there gave %v after %v", err, took)
		}
		// The kernel's schedule: at 0, 1 and 3 s.
		if n := l.SentTo(netip.MustParseAddr("203.0.113.99")); n != 3 {
			t.Errorf("%d SYN were sent in 5 s", n)
		}
		_ = vps
	})
}

func TestStreamResets(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		ln := listenTCP(t, vps, "0.0.0.0:443")
		client, server := connect(t, home, ln, "203.0.113.10:443")
		_ = server.(interface{ SetLinger(int) error }).SetLinger(0)
		_ = server.Close()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a reset connection gave %v", err)
		}
		client, server = connect(t, home, ln, "203.0.113.10:443")
		_ = server.Close()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a closed connection gave %v", err)
		}
		_, _ = client.Write([]byte("too late"))
		time.Sleep(time.Second)
		if _, err := client.Write([]byte("later")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("writing to one who has gone gave %v", err)
		}
		// A half-closed one still receives.
		client, server = connect(t, home, ln, "203.0.113.10:443")
		_ = client.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(server); len(got) > 0 || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		_, _ = server.Write([]byte("answer"))
		_ = server.Close()
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestStreamDeadlinesAndClose(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		ln := listenTCP(t, vps, "0.0.0.0:443")
		client, server := connect(t, home, ln, "203.0.113.10:443")
		start := time.Now()
		_ = client.SetReadDeadline(start.Add(time.Second))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Read gave %v after %v", err, time.Since(start))
		}
		_ = client.SetReadDeadline(time.Time{})
		exchange(t, client, server)
		// Nobody reads: Write must wait in the end.
		_ = client.SetWriteDeadline(time.Now().Add(10 * time.Second))
		n, err := client.Write(make([]byte, 64<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n < 1<<20 || n > 8<<20 {
			t.Errorf("Write to a peer that does not read took %d bytes and gave %v", n, err)
		}
		_ = client.SetWriteDeadline(time.Time{})
		if _, err := io.ReadFull(server, make([]byte, n)); err != nil {
			t.Errorf("what was written did not arrive once the peer read: %v", err)
		}
		time.AfterFunc(time.Second, func() { _ = client.Close(); _ = ln.Close() })
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close gave the reader %v", err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close gave Accept %v", err)
		}
	})
}

func TestStreamDiesWhenTheLinkIsCut(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		client, server := connect(t, home, listenTCP(t, vps, "0.0.0.0:443"), "203.0.113.10:443")
		home.Unplug()
		start := time.Now()
		_, _ = client.Write([]byte("into the void"))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("Read gave %v", err)
		}
		if took := time.Since(start); took < UserTimeout || took > 2*UserTimeout {
			t.Errorf("it took %v, want about %v", took, UserTimeout)
		}
		_ = server.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the silent side's Read gave %v: nothing tells it", err)
		}
		_ = server.SetReadDeadline(time.Time{})
		home.Plug()
		_, _ = server.Write([]byte("anybody?")) // answered by RST
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other side's Read gave %v", err)
		}
	})
}

func TestStreamOnOneHost(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1")
		ln := listenTCP(t, h, "127.0.0.1:8080")
		client, server := connect(t, h, ln, "127.0.0.1:8080")
		exchange(t, client, server)
		bulk(t, client, server, 1<<20)
		if _, _, err := dial(h, "0.0.0.0:0", "127.0.0.1:81", time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listening gave %v", err)
		}
		if _, err := h.ListenTCP(netip.MustParseAddrPort("127.0.0.1:8080")); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listening twice gave %v", err)
		}
	})
}

func TestTLSAndYamux(t *testing.T) {
	runtime.GC() // yamux keeps timers in a pool of the process; those of another bubble may not be used
	runtime.GC()
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10")
		home := l.NAT("router", "198.51.100.1", Home(), Loss(0.02)).Host("home", "192.168.1.2")
		c, s := connect(t, home, listenTCP(t, vps, "0.0.0.0:443"), "203.0.113.10:443")
		var both sync.WaitGroup
		config := yamux.DefaultConfig()
		config.LogOutput = io.Discard
		served := make(chan error, 1)
		go func() {
			conn := tls.Server(s, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
			if err := conn.Handshake(); err != nil {
				served <- err
				return
			}
			mux, err := yamux.Server(conn, config)
			if err != nil {
				served <- err
				return
			}
			for {
				stream, err := mux.Accept()
				if err != nil {
					served <- nil
					return
				}
				go func() {
					_, _ = io.Copy(stream, stream)
					_ = stream.Close()
				}()
			}
		}()
		conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		mux, err := yamux.Client(conn, config)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 { // several windows of 256 KiB on each of four streams
			stream, err := mux.Open()
			if err != nil {
				t.Fatal(err)
			}
			both.Go(func() {
				bulk(t, stream, stream, 1<<20)
				_ = stream.Close()
			})
		}
		both.Wait()
		_ = mux.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestDiagramShowsTCP(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		fake(t, vps, "0.0.0.0:443")
		client := fake(t, home, "0.0.0.0:4000")
		if _, err := opens(client, "203.0.113.10:443", time.Second); err != nil {
			t.Fatal(err)
		}
		send(t, client, "203.0.113.10:443", "x")
		_, _, _ = dial(home, "0.0.0.0:0", "203.0.113.10:80", time.Second)
		got := l.Diagram()
		for _, want := range []string{"fake SYN 0B", "fake SYN/ACK 0B", "fake quic 1B", "tcp SYN 0B", "DROPPED at vps: answered by RST", "tcp RST 0B"} {
			if !strings.Contains(got, want) {
				t.Errorf("the diagram lacks %q:\n%s", want, got)
			}
		}
	})
}
