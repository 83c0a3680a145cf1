package faketcp

// Counts says what a Conn did and what it dropped, by reason. All but the
// first six are segments or datagrams that nobody received, or that were
// ignored.
type Counts struct {
	Opened   uint64 // flows established by an Open of ours
	Accepted uint64 // flows established by a stranger's handshake
	Sent     uint64 // datagrams that left
	Received uint64 // datagrams that came and were read
	Packed   uint64 // of the sent ones, in packed form
	Revived  uint64 // SYNs sent on an established flow that had gone silent

	Malformed uint64 // flags that no TCP sends together, or no ACK where there must be one
	Stranger  uint64 // of no flow, and no genuine end of a handshake
	BadAck    uint64 // acknowledges what was not sent, during a handshake
	Early     uint64 // data before the handshake's end
	Limited   uint64 // strangers' SYNs beyond the rate that is answered
	Full      uint64 // handshakes refused: the table is full of flows in use
	PerPeer   uint64 // handshakes refused: too many flows of one address
	Refused   uint64 // RST in answer to a SYN of ours: it is sent again
	HeldBack  uint64 // of those, where SYNs had been answered so that often that the next one waited
	Reset     uint64 // RST on an established flow
	Fin       uint64 // FIN
	Resyn     uint64 // SYN or SYN/ACK with other numbers on an established flow
	Far       uint64 // runs far from the sequence numbers seen before; delivered
	Evicted   uint64 // flows forgotten to make room
	Ended     uint64 // flows forgotten as dead or idle
	NotOpen   uint64 // datagrams written to where no handshake was made
	Held      uint64 // datagrams held during a handshake and lost
	Empty     uint64 // datagrams without a byte, which no segment can carry
	Unsent    uint64 // segments of handshakes and ACKs that the device did not take
	Crowded   uint64 // answers not given, for there were too many in one visit

	Checks       uint64 // check datagrams consumed
	BadCheck     uint64 // check datagrams that make no sense, or nobody waits for
	Recut        uint64 // check datagrams that did not come as they were cut
	PackedAlien  uint64 // packed segments where packed mode is off
	PackedFailed uint64 // flows that packed mode was given up on
}
