package path

import (
	"fmt"
	"strings"
)

// Kinds is a set of kinds. As a rule for a service it says which may carry its
// datagrams; the empty one is no rule. It is comparable, and less than
// AllKinds+1, for tables.
type Kinds uint8

// AllKinds has every kind.
const AllKinds Kinds = 1<<RelayTLS - 1

// KindsOf is the set of these; None is in no set.
func KindsOf(list ...Kind) (s Kinds) {
	for _, k := range list {
		if k > None && k <= RelayTLS {
			s |= 1 << (k - 1)
		}
	}
	return s
}

// Has says whether k is in the set.
func (s Kinds) Has(k Kind) bool { return s&KindsOf(k) != 0 }

// Allows says whether the rule lets k carry data.
func (s Kinds) Allows(k Kind) bool { return s == 0 || s.Has(k) }

// List is the set's kinds in their order of preference.
func (s Kinds) List() (list []Kind) {
	for k := DirectUDP; k <= RelayTLS; k++ {
		if s.Has(k) {
			list = append(list, k)
		}
	}
	return list
}

// Names are the words of the set's kinds, nil for none.
func (s Kinds) Names() (words []string) {
	for _, k := range s.List() {
		words = append(words, k.String())
	}
	return words
}

// String is the set as a URL's option has it: direct-faketcp+relay-faketcp.
func (s Kinds) String() string { return strings.Join(s.Names(), "+") }

// ParseKinds reads what String wrote, or the same with commas. In the query of
// a URL a + means a space, so those are read too.
func ParseKinds(text string) (s Kinds, err error) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("+, ", r) }) {
		k, err := ParseKind(word)
		if err != nil {
			return 0, err
		}
		s |= KindsOf(k)
	}
	if s == 0 {
		return 0, fmt.Errorf("no kind of path is named; there are %v", names[1:])
	}
	return s, nil
}

// Narrow combines the rules of both ends of a flow; ok is false where no kind
// is left.
func (s Kinds) Narrow(o Kinds) (both Kinds, ok bool) {
	switch {
	case s == 0:
		return o, true
	case o == 0:
		return s, true
	}
	return s & o, s&o != 0
}
