package natlab

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"rendezvous/proto"
)

// laneWidth is the width of a column of the diagram, in characters.
const laneWidth = 14

// drawn is how many records a failed test draws; older ones scroll away.
const drawn = 400

// Diagram draws the recorded events as a sequence diagram: a column for each
// host and NAT, a line for each step of a burst.
func (l *Lab) Diagram() string { return l.diagram(l.options.Records) }

func (l *Lab) diagram(most int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.recorder
	columns := make(map[string]int, len(r.lanes))
	var b strings.Builder
	fmt.Fprintf(&b, "%12s  ", "")
	for i, name := range r.lanes {
		columns[name] = i
		fmt.Fprintf(&b, "%-*s", laneWidth, clip(name, laneWidth-1))
	}
	b.WriteByte('\n')
	records := r.all()
	for _, rec := range records[max(0, len(records)-most):] {
		if rec.Event == Sent || rec.TCP == TCPAck && rec.Event != Dropped {
			continue // the next event shows where it came from; acknowledgments follow from the rest
		}
		fmt.Fprintf(&b, "%12s  %s %s\n", offset(rec.At.Sub(r.start)), arrow(rec, columns), caption(rec))
	}
	return b.String()
}

func offset(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }

// arrow draws a step from the column that the burst left last to the one
// where the event happened.
func arrow(rec Record, columns map[string]int) string {
	line := []rune(strings.Repeat("|"+strings.Repeat(" ", laneWidth-1), len(columns)))
	from, known := columns[rec.Last]
	if !known {
		return strings.TrimRight(string(line), " ")
	}
	to, known := columns[rec.Place]
	if !known { // it happened on the way, in a network
		to = from
	}
	head := '>'
	if rec.Event == Dropped {
		head = 'x'
	}
	a, b := from*laneWidth, to*laneWidth
	switch {
	case a < b:
		drawShaft(line[a+1 : b-1])
		line[b-1] = head
	case a > b:
		if head == '>' {
			head = '<'
		}
		drawShaft(line[b+2 : a])
		line[b+1] = head
	case rec.Event == Dropped:
		line[a] = head
	default:
		line[a] = 'o'
	}
	return strings.TrimRight(string(line), " ")
}

func drawShaft(line []rune) {
	for i := range line {
		if line[i] == ' ' {
			line[i] = '-'
		} else {
			line[i] = '+'
		}
	}
}

func caption(rec Record) string {
	var b strings.Builder
	b.WriteString(kindOf(rec))
	if rec.Count > 1 {
		fmt.Fprintf(&b, " x%d", rec.Count)
	}
	fmt.Fprintf(&b, " %dB %s>%s", rec.Bytes, rec.From, rec.To)
	switch rec.Event {
	case Translated:
		fmt.Fprintf(&b, " as %s>%s", changed(rec.From, rec.NewFrom), changed(rec.To, rec.NewTo))
	case Dropped:
		fmt.Fprintf(&b, " DROPPED at %s: %s", rec.Place, rec.Reason)
	}
	if rec.TTL < 16 {
		fmt.Fprintf(&b, " ttl %d", rec.TTL)
	}
	return b.String()
}

// kindOf is the word for what a record is about: "probe", "fake SYN", "fake
// probe", "tcp SYN/ACK", "tcp data".
func kindOf(rec Record) string {
	switch {
	case rec.TCP == NotTCP:
		return KindName(rec.Kind)
	case !rec.Fake:
		return "tcp " + rec.TCP.String()
	case rec.TCP == TCPData:
		return "fake " + KindName(rec.Kind)
	}
	return "fake " + rec.TCP.String()
}

func changed(old, now netip.AddrPort) string {
	if old == now {
		return "same"
	}
	return now.String()
}

// KindName is the word for a kind of datagram.
func KindName(k proto.Kind) string {
	names := [...]string{"other", "stun", "quic", "data", "probe", "answer", "bind", "bound", "prime", "meet", "met"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind-%d", k)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}
