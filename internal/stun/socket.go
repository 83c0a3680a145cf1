package stun

import (
	"net/netip"
	"sync"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
)

// socket is a conn of Discover's own, with its reader.
type socket struct {
	conn   dgram.Conn
	client *Client
	// mark is the transaction id of a request that another of our sockets
	// sends to this one's mapped address; marked is closed when it arrives.
	mark      transaction
	marked    chan struct{}
	onceMark  sync.Once
	wrote     chan struct{} // closed after the client's first write
	onceWrote sync.Once
	done      chan struct{} // closed when the reader has ended
}

// open makes a socket on a free port; ip is the unspecified address of the
// family.
func open(network dgram.Network, ip netip.Addr) (*socket, error) {
	conn, err := network.ListenUDP(netip.AddrPortFrom(ip, 0))
	if err != nil {
		return nil, err
	}
	s := &socket{
		conn:   conn,
		mark:   pion.NewTransactionID(),
		marked: make(chan struct{}),
		wrote:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	s.client = NewClient(s.write)
	go s.read()
	return s, nil
}

func (s *socket) write(b dgram.Burst) error {
	err := s.conn.Write(b)
	s.onceWrote.Do(func() { close(s.wrote) })
	return err
}

func (s *socket) read() {
	defer close(s.done)
	var arena dgram.Arena
	defer arena.Release()
	for {
		bursts, err := s.conn.Read(&arena)
		if err != nil {
			return
		}
		for _, burst := range bursts {
			for b := range burst.All() {
				s.receive(burst.Addr, b)
			}
		}
	}
}

func (s *socket) receive(from netip.AddrPort, b []byte) {
	m, err := parse(b)
	if err == nil && m.Type == pion.BindingRequest && m.TransactionID == s.mark {
		s.onceMark.Do(func() { close(s.marked) })
		return
	}
	s.client.Receive(from, b)
}

// close ends the reader and returns when it has ended.
func (s *socket) close() {
	_ = s.conn.Close() // nothing is left to be sent
	<-s.done
}
