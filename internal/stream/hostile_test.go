package stream

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// Whatever a peer says on a stream breaks at most its own connection.
func FuzzPeer(f *testing.F) {
	ack := appendAck(nil, 0, 1<<62)
	f.Add(append(appendHeader(nil, pieceData, 3), "abc"...))
	f.Add(appendHeader(appendHeader(nil, pieceFIN, 0), pieceEnd, 0))
	f.Add(append(ack, appendReset(nil, "x")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		bubble.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			defer p.close()
			a, _ := p.use(1<<20, 0)
			s, err := a.Open(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, s) }()
			_, _ = s.Write(appendMessage(nil, &proto.Connect{Instance: 9, Id: 1, Service: "web", Attempt: 1}))
			service := <-p.service("web")
			go func() { _, _ = io.Copy(io.Discard, service) }()
			_, _ = service.Write(make([]byte, 1000))
			_, _ = s.Write(b)
			_ = s.CloseWrite()
			time.Sleep(5 * time.Minute)
			_ = service.SetLinger(0)
			synctest.Wait()
			p.empty(t)
		})
	})
}

func TestHostile(t *testing.T) {
	connect := proto.Connect{Instance: 9, Id: 1, Service: "web", Attempt: 1}
	greeting := appendMessage(nil, &connect)
	more := func(b ...byte) []byte { return append(append([]byte{}, greeting...), b...) }
	tests := map[string][]byte{
		"too much":         append(more(appendHeader(nil, pieceData, mostData)...), make([]byte, 3*mostData)...),
		"data after FIN":   more(append(appendHeader(appendHeader(nil, pieceFIN, 0), pieceData, 1), 'x')...),
		"two FINs":         more(appendHeader(appendHeader(nil, pieceFIN, 0), pieceFIN, 0)...),
		"an early end":     more(appendHeader(nil, pieceEnd, 0)...),
		"nothing sent":     more(appendAck(nil, 1, 0)...),
		"no piece":         more(0x99, 0, 0, 0),
		"no message":       {0x03, 0xff, 0xff, 0xff},
		"a long greeting":  {0xff, 0xff, 0x7f},
		"an unknown kind":  appendMessage(nil, &proto.Connect{Service: "web", Paths: []string{"by-balloon"}}),
		"another rule":     appendMessage(nil, &proto.Connect{Service: "web", Paths: []string{"direct-udp"}}),
		"nothing to go on": appendMessage(nil, &proto.Connect{Instance: 9, Id: 7, Service: "web", Attempt: 2, Resume: true}),
	}
	for name, b := range tests {
		alone(t, nil, func(t *testing.T, p *pair) {
			a, _ := p.use(1<<20, 0)
			s, err := a.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = s.Write(b) }()
			_, _ = io.ReadAll(s) // it is ended
			_ = s.Close()
			time.Sleep(5 * time.Minute)
			if st := p.far.Status(); st.Malformed+st.Refused == 0 {
				t.Errorf("%s: %+v", name, st)
			}
			p.empty(t)
		})
	}
}

// A stream that is silent is given up, and one that comes late changes nothing.
func TestLate(t *testing.T) {
	alone(t, func(_, far *Config) {
		far.Accept = func(context.Context, Request) (net.Conn, error) {
			local, service := newDuplex(4096)
			go func() { _, _ = io.Copy(service, service) }()
			return local, nil
		}
	}, func(t *testing.T, p *pair) {
		a, _ := p.use(4096, 0)
		silent, _ := a.Open(t.Context())
		start := time.Now()
		_, _ = io.ReadAll(silent)
		if took := time.Since(start); took != connectWithin {
			t.Errorf("it was given up after %v", took)
		}
		open := func(attempt uint32) Stream {
			s, _ := a.Open(t.Context())
			_, _ = s.Write(appendMessage(nil, &proto.Connect{Instance: 9, Id: 1, Attempt: attempt}))
			return s
		}
		second := open(2)
		_, _ = second.Write(append(appendHeader(nil, pieceData, 1), 'x'))
		time.Sleep(time.Second)
		if _, err := io.ReadAll(open(1)); err != nil {
			t.Error(err)
		}
		_, _ = second.Write(append(appendHeader(nil, pieceData, 1), 'y'))
		time.Sleep(time.Second)
		if s := p.far.Status(); s.RxBytes != 2 || s.TxBytes != 2 || s.Connections != 1 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}
