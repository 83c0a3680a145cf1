package pairs

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"sync"
	"time"
)

// pathLog is an agent's log, of which only the paths that data takes are kept.
type pathLog struct {
	mu   sync.Mutex
	told map[string]step // by peer, the last
	news chan struct{}
}

// step is a path that data took at some time.
type step struct {
	path string
	at   time.Time
}

func newPathLog() *pathLog {
	return &pathLog{told: make(map[string]step), news: make(chan struct{}, 1)}
}

var takes = []byte(`"data takes this path"`)

// Write takes in a line of the log.
func (l *pathLog) Write(line []byte) (int, error) {
	if !bytes.Contains(line, takes) {
		return len(line), nil
	}
	var said struct{ Peer, Path string }
	if err := json.Unmarshal(line, &said); err != nil {
		return 0, err
	}
	l.mu.Lock()
	if l.told[said.Peer].path != said.Path {
		l.told[said.Peer] = step{said.Path, time.Now()}
	}
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
	return len(line), nil
}

func (l *pathLog) last(peer string) step {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told[peer]
}

func (l *pathLog) forget(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.told, peer)
}

var coordinators = map[netip.Addr]bool{
	netip.MustParseAddr(vpsAddr): true, netip.MustParseAddr(vpsOther): true, netip.MustParseAddr(vpsSix): true,
}

// count counts what m sends to others than the coordinator.
func (m *member) count(to netip.AddrPort, datagrams int) {
	if !coordinators[to.Addr()] {
		m.sent.Add(int64(datagrams))
	}
}
