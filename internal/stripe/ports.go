package stripe

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Range is consecutive ports, both ends in it.
type Range struct{ First, Last uint16 }

// String is "53" or "30000-30100", as ParsePorts reads it and nftables writes
// it.
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Has says whether the port is in the range.
func (r Range) Has(port uint16) bool { return r.First <= port && port <= r.Last }

// Ports is a set of ports: ranges in their order, of which none overlaps or
// touches another. nftables refuses a set whose ranges overlap, so this is how
// every set here is made.
type Ports []Range

// All are the ports that a packet can be sent to; 0 is reserved (RFC 6335
// section 6).
func All() Ports { return Ports{{1, 65535}} }

// Of are these ports and ranges, in any order, overlapping as they like.
func Of(ranges ...Range) Ports {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	var out Ports
	for _, r := range sorted {
		if r.Last < r.First {
			continue
		}
		if n := len(out); n > 0 && uint32(r.First) <= uint32(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Single are ports one by one.
func Single(ports ...uint16) Ports {
	ranges := make([]Range, 0, len(ports))
	for _, n := range ports {
		ranges = append(ranges, Range{n, n})
	}
	return Of(ranges...)
}

// With is what is in p or in q.
func (p Ports) With(q Ports) Ports { return Of(slices.Concat(p, q)...) }

// Without is what is in p and not in q.
func (p Ports) Without(q Ports) Ports {
	var out Ports
	for _, r := range p {
		next := uint32(r.First) // of what is not dealt with; 65536 is past the end
		for _, hole := range q {
			if hole.Last < r.First || hole.First > r.Last {
				continue
			}
			if uint32(hole.First) > next {
				out = append(out, Range{uint16(next), hole.First - 1})
			}
			next = max(next, uint32(hole.Last)+1)
		}
		if next <= uint32(r.Last) {
			out = append(out, Range{uint16(next), r.Last})
		}
	}
	return out
}

// Has says whether a port is in the set.
func (p Ports) Has(port uint16) bool {
	i, found := slices.BinarySearchFunc(p, port, func(r Range, n uint16) int { return cmp.Compare(r.First, n) })
	return found || i > 0 && p[i-1].Last >= port
}

// Count is how many ports the set has.
func (p Ports) Count() int {
	n := 0
	for _, r := range p {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

// String is "22, 30000-30100"; nothing for the empty set.
func (p Ports) String() string {
	words := make([]string, 0, len(p))
	for _, r := range p {
		words = append(words, r.String())
	}
	return strings.Join(words, ", ")
}

// ParsePorts reads ports and ranges, as in "22, 30000-30100". The error names
// all words that are neither.
func ParsePorts(s string) (Ports, error) {
	ranges, err := ParseRanges(s)
	return Of(ranges...), err
}

// ParseRanges is like ParsePorts, but gives the ranges as they were written.
func ParseRanges(s string) ([]Range, error) {
	var ranges []Range
	var faults []error
	for word := range strings.SplitSeq(s, ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		r, ok := parseRange(word)
		if !ok {
			faults = append(faults, fmt.Errorf("%q is neither a port (1 to 65535) nor a range such as 30000-30100", word))
			continue
		}
		ranges = append(ranges, r)
	}
	return ranges, errors.Join(faults...)
}

func parseRange(word string) (Range, bool) {
	low, high, isRange := strings.Cut(word, "-")
	if !isRange {
		high = low
	}
	first, err := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	r := Range{uint16(first), uint16(last)}
	return r, err == nil && err2 == nil && r.First >= 1 && r.First <= r.Last
}
