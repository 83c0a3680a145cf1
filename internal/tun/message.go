package tun

import (
	"bytes"
	"crypto/rand"
)

// Messages stand among the segments of a session, and are shorter than any:
//
//	+------+--------+---------+
//	| kind | family | id (16) |      hello, heard
//	+------+--------+---------+
//	| 03 |                           who
//	+----+
//
// A dialing process says hello in each of its flows, one for each family, so
// that the other side knows which flows are the same process's and which family
// the segments in them are. Heard repeats a hello that was understood; who asks
// for one.
type messageKind byte

const (
	hello messageKind = 1
	heard messageKind = 2
	who   messageKind = 3
)

// ID names a dialing process. Nobody else can guess it.
type ID [16]byte

func newID() (id ID) {
	rand.Read(id[:])
	return id
}

type message struct {
	kind messageKind
	six  bool // the family of the flow's segments
	id   ID
}

const greetingSize = 2 + len(ID{})

func (m message) append(dst []byte) []byte {
	dst = append(dst, byte(m.kind))
	if m.kind == who {
		return dst
	}
	family := byte(4)
	if m.six {
		family = 6
	}
	return append(append(dst, family), m.id[:]...)
}

// parseMessage is append's opposite.
func parseMessage(b []byte) (m message, ok bool) {
	if bytes.Equal(b, []byte{byte(who)}) {
		return message{kind: who}, true
	}
	if len(b) != greetingSize || b[0] != byte(hello) && b[0] != byte(heard) || b[1] != 4 && b[1] != 6 {
		return message{}, false
	}
	return message{kind: messageKind(b[0]), six: b[1] == 6, id: ID(b[2:])}, true
}
