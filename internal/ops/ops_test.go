package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, ExitDone},
		{errors.New("no"), ExitFailed},
		{Failed("no"), ExitFailed},
		{Usage("no"), ExitUsage},
		{fmt.Errorf("load: %w", Usage("no")), ExitUsage},
		{fmt.Errorf("ask: %w", ErrNoDaemon), ExitNoDaemon},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("ExitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestStateFolder(t *testing.T) {
	home := func() (string, error) { return "/home/u", nil }
	none := func() (string, error) { return "", errors.New("$HOME is not defined") }
	for _, c := range []struct {
		xdg  string
		home func() (string, error)
		want string
	}{
		{"/x/state", home, "/x/state/agent"},
		{"", home, "/home/u/.local/state/agent"},
		{"relative", home, "/home/u/.local/state/agent"},
		{"", none, ""},
	} {
		got, err := stateUnder("agent", c.xdg, c.home)
		if got != filepath.FromSlash(c.want) || (err != nil) != (c.want == "") {
			t.Errorf("stateUnder(%q) = %q, %v; want %q", c.xdg, got, err, c.want)
		}
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := MakeState(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("MakeState left %v, %v", left, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeState(file); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("a file as state folder gave %v", err)
	}
}

type echo struct {
	Text  string `json:"text"`
	Times int    `json:"times"`
}

func testHandler() http.Handler {
	mux := http.NewServeMux()
	Handle(mux, "/echo", func(_ context.Context, in echo) (echo, error) {
		switch in.Text {
		case "usage":
			return echo{}, Usage("wrong: %s", in.Text)
		case "fail":
			return echo{}, errors.New("it broke")
		}
		return in, nil
	})
	HandleStream(mux, "/repeat", func(ctx context.Context, in echo, emit func(echo) error) error {
		for i := range in.Times {
			if err := emit(echo{Text: in.Text, Times: i}); err != nil {
				return err
			}
		}
		if in.Text == "forever" {
			<-ctx.Done()
			return ctx.Err()
		}
		return Usage("end of %s", in.Text)
	})
	return mux
}

// serve runs a daemon in dir and returns how to stop it.
func serve(t *testing.T, dir string) (stop func() error) {
	t.Helper()
	c, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, testHandler()) }()
	var result error
	stopped := false
	stop = func() error {
		if !stopped {
			cancel()
			result, stopped = <-done, true
		}
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return stop
}

func TestControl(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	client := NewClient(dir)
	if err := client.Call(ctx, "/echo", nil, nil); !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), dir) {
		t.Errorf("with no daemon: %v", err)
	}
	stop := serve(t, dir)
	if info, err := os.Stat(filepath.Join(dir, SocketName)); err != nil || info.Mode().Perm() != 0o600 || info.Mode()&fs.ModeSocket == 0 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	var out echo
	if err := client.Call(ctx, "/echo", echo{Text: "hello"}, &out); err != nil || out.Text != "hello" {
		t.Errorf("echo gave %v, %v", out, err)
	}
	if err := client.Call(ctx, "/echo", nil, &out); err != nil || out.Text != "" {
		t.Errorf("an empty request gave %v, %v", out, err)
	}
	if err := client.Call(ctx, "/echo", "a string", &out); ExitCode(err) != ExitUsage {
		t.Errorf("JSON of a wrong form gave %v", err)
	}
	if err := client.Call(ctx, "/echo", echo{Text: "usage"}, &out); ExitCode(err) != ExitUsage || err.Error() != "wrong: usage" {
		t.Errorf("a usage error came as %v", err)
	}
	if err := client.Call(ctx, "/echo", echo{Text: "fail"}, &out); ExitCode(err) != ExitFailed || err.Error() != "it broke" {
		t.Errorf("an error came as %v", err)
	}
	if err := client.Call(ctx, "/nothing", nil, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown path gave %v", err)
	}
	if _, err := Listen(dir); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a second daemon got %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := client.Call(ctx, "/echo", nil, nil); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestControlStream(t *testing.T) {
	dir := t.TempDir()
	stop := serve(t, dir)
	client := NewClient(dir)
	var got []string
	collect := func(b json.RawMessage) error { got = append(got, string(b)); return nil }
	err := client.Stream(context.Background(), "/repeat", echo{Text: "a", Times: 2}, collect)
	if ExitCode(err) != ExitUsage || err.Error() != "end of a" {
		t.Errorf("the stream ended with %v", err)
	}
	want := []string{`{"text":"a","times":0}`, `{"text":"a","times":1}`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the stream brought %v, want %v", got, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	err = client.Stream(ctx, "/repeat", echo{Text: "forever", Times: 1}, func(json.RawMessage) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled stream ended with %v", err)
	}
	enough := errors.New("enough")
	err = client.Stream(context.Background(), "/repeat", echo{Text: "forever", Times: 1}, func(json.RawMessage) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("a stream that its reader left ended with %v", err)
	}
	// The daemon does not wait for a stream without end.
	began, ended := make(chan struct{}), make(chan error)
	go func() {
		ended <- client.Stream(context.Background(), "/repeat", echo{Text: "forever", Times: 1},
			func(json.RawMessage) error { close(began); return nil })
	}()
	<-began
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a stream that the daemon's end broke gave no error")
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, SocketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as after kill -9
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := NewClient(dir).Call(context.Background(), "/echo", nil, nil); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("a stale socket gave %v", err)
	}
	serve(t, dir)
	if err := NewClient(dir).Call(context.Background(), "/echo", nil, nil); err != nil {
		t.Errorf("the new daemon gave %v", err)
	}
}

func TestSocketPathTooLong(t *testing.T) {
	_, err := Listen("/" + strings.Repeat("d", 120))
	if ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), "--state") {
		t.Errorf("got %v", err)
	}
}

func TestLog(t *testing.T) {
	if _, err := NewLog(os.Stderr, "loud"); ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), "debug info warn error") {
		t.Errorf("an unknown level gave %v", err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := NewLog(f, "")
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Msg("unseen")
	log.Info().Str("peer", "home").Msg("seen")
	Slog(log).Warn("from a library", "n", 1)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"peer":"home"`) || !strings.Contains(lines[1], `"n":1`) {
		t.Errorf("the log has %q", lines)
	}
}

func TestMetrics(t *testing.T) {
	l, err := ListenMetrics("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenMetrics(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "metrics:") {
		t.Errorf("a port in use gave %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var sick error
	go func() {
		done <- ServeMetrics(ctx, l, MetricsHandler(NewRegistry(), func(context.Context) error { return sick }))
	}()
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/other": 404} {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
			t.Errorf("GET %s gave %s, %v", path, resp.Status, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNotify plays the service manager.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	receive := func() string {
		b := make([]byte, 512)
		if err := l.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	if err := Ready("listening"); err != nil {
		t.Fatal(err)
	}
	if got := receive(); got != "READY=1\nSTATUS=listening" {
		t.Errorf("ready was %q", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	asked := 0
	go func() {
		done <- Watchdog(ctx, func(context.Context) error {
			if asked++; asked == 2 {
				return errors.New("hangs")
			}
			return nil
		})
	}()
	for range 2 {
		if got := receive(); got != "WATCHDOG=1" {
			t.Errorf("the watchdog said %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil || asked < 3 {
		t.Errorf("the watchdog ended with %v after asking %d times", err, asked)
	}
	if err := Stopping(""); err != nil {
		t.Fatal(err)
	}
	for got := receive(); got != "STOPPING=1"; got = receive() {
		if got != "WATCHDOG=1" {
			t.Fatalf("got %q", got)
		}
	}
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	if err := errors.Join(Ready(""), Watchdog(context.Background(), nil)); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}
