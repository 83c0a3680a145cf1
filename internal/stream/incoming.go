package stream

// incoming is one direction of a connection on its receiver's side: what came
// and is not written to the local connection yet. Offsets are as in outgoing.
// The connection's mutex guards it.
type incoming struct {
	queue     []segment // the oldest first
	received  uint64    // offset behind all that came
	delivered uint64    // offset behind what the local connection took
	told      uint64    // received, as the last acknowledgement had it
	limit     uint64    // what the other side may send up to
	window    uint64
	fin       bool // it came
	closed    bool // and the local connection knows
	writing   bool // somebody writes to the local connection
}

// segment is bytes for the local connection.
type segment struct {
	b    []byte
	from *slab
}

// slab is memory that a stream was read into.
type slab struct {
	owner *attachment // whose reader reads into it
	buf   []byte      // lent; what was read
	uses  int         // segments in it, and its reader
}

func (s *slab) done() {
	s.uses--
	if s.uses == 0 {
		giveBack(s.buf)
		s.buf = nil
	}
}

// small segments are moved together, so that a hundred keystrokes are one
// write, and what waits needs no more than four times its own size in memory.
const smallSegment = largeBlock / 4

// add takes data that lies in a slab; false when it is more than was allowed.
func (in *incoming) add(b []byte, from *slab) bool {
	if in.fin || uint64(len(b)) > in.limit-in.received {
		return false
	}
	in.received += uint64(len(b))
	if n := len(in.queue); n > 0 && len(b) <= smallSegment {
		// What lies behind the last segment in its slab, up to b if that is in
		// it too, was decoded and is worth nothing any more; but the slab of a
		// stream that was given up may still be read into.
		last := &in.queue[n-1]
		if last.from.owner == from.owner && cap(last.b)-len(last.b) >= len(b) && !(in.writing && n == 1) {
			last.b = append(last.b, b...)
			return true
		}
	}
	from.uses++
	in.queue = append(in.queue, segment{b, from})
	return true
}

// begins says whether there is something to write to the local connection, or to
// tell it, and nobody who does. Who gets true must.
func (in *incoming) begins() bool {
	if in.writing || len(in.queue) == 0 && (!in.fin || in.closed) {
		return false
	}
	in.writing = true
	return true
}

// first is what is to be written next; nil when nothing is.
func (in *incoming) first() []byte {
	if len(in.queue) == 0 {
		return nil
	}
	return in.queue[0].b
}

// wrote accounts for n bytes of the first segment that the local connection
// took.
func (in *incoming) wrote(n int) {
	in.delivered += uint64(n)
	s := &in.queue[0]
	s.b = s.b[n:]
	if len(s.b) > 0 {
		return
	}
	s.from.done()
	last := copy(in.queue, in.queue[1:])
	in.queue[last] = segment{}
	in.queue = in.queue[:last]
}

// abandon forgets what waits. What is being written stays until wrote.
func (in *incoming) abandon() {
	keep := 0
	if in.writing && len(in.queue) > 0 {
		keep = 1
	}
	for i := keep; i < len(in.queue); i++ {
		in.queue[i].from.done()
		in.queue[i] = segment{}
	}
	in.queue = in.queue[:keep]
}

// grown is the window that the direction should have. It doubles while the
// sender uses it up and the local connection takes all that comes: then the
// window is what holds them back.
func (in *incoming) grown(most uint64) uint64 {
	if in.limit-in.received < in.window/2 && in.received-in.delivered < in.window/4 {
		return min(2*in.window, max(most, in.window))
	}
	return in.window
}

// due says whether the other side should hear at once of what came or may come.
func (in *incoming) due() bool {
	return in.received-in.told >= in.window/4 || in.open()-in.limit >= in.window/4
}

// open is the limit that could be told now.
func (in *incoming) open() uint64 { return max(in.limit, in.delivered+in.window) }
