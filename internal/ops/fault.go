package ops

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Fault is what is wrong with a setting.
type Fault struct {
	Key  string // the way there, as "limits.connections" or "publish[1].ports"
	Text string
}

// Faultf makes a Fault, its text formatted as fmt.Errorf does.
func Faultf(key, format string, args ...any) error {
	return &Fault{key, fmt.Errorf(format, args...).Error()}
}

// FaultOf makes a Fault of each error that was joined into one.
func FaultOf(key string, err error) error {
	var all []error
	for _, each := range unjoin(err) {
		all = append(all, &Fault{key, each.Error()})
	}
	return errors.Join(all...)
}

func (f *Fault) Error() string { return shownKey(f.Key) + ": " + f.Text }

var listIndex = regexp.MustCompile(`\[\d+\]`)

// shownKey is without the places in lists: the line says which of them.
func shownKey(key string) string { return listIndex.ReplaceAllString(key, "") }

// Source is where settings come from: a file whose keys have lines, and flags
// that stand in their place. The zero Source has neither.
type Source struct {
	file  string
	lines map[string]int // of keys, as in a Fault
	wrong []located      // by reading alone
	flags map[string]string
}

// located is a fault with its line; 0: it has none.
type located struct {
	line int
	error
}

// Override says that a flag, as "--listen", took a key's place.
func (s *Source) Override(key, flag string) {
	if s.flags == nil {
		s.flags = map[string]string{}
	}
	s.flags[key] = flag
}

// Line is where a key stands in the file, or what of the way there does; 0 where
// nothing of it does.
func (s *Source) Line(key string) int {
	for key != "" {
		if line := s.lines[key]; line > 0 {
			return line
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 0
}

// Check gives one UsageError of all that is wrong: what reading the file has
// found and what the values' own check did, each Fault of which gets its place,
// as in "file:4: limits.connections: ...", in the order of lines. nil: nothing is
// wrong.
func (s *Source) Check(err error) error {
	all := slices.Clone(s.wrong)
	for _, each := range unjoin(err) {
		all = append(all, s.locate(each))
	}
	slices.SortStableFunc(all, func(a, b located) int { return cmp.Compare(a.line, b.line) })
	var out []error
	for _, each := range all {
		err := each.error
		if each.line > 0 {
			err = fmt.Errorf("%s:%d: %w", s.file, each.line, err)
		}
		out = append(out, err)
	}
	if len(out) == 0 {
		return nil
	}
	return &UsageError{Err: errors.Join(out...)}
}

func (s *Source) locate(err error) located {
	var f *Fault
	if !errors.As(err, &f) {
		return located{0, err}
	}
	top := f.Key
	if i := strings.IndexAny(top, ".["); i >= 0 {
		top = top[:i]
	}
	if flag := s.flags[top]; flag != "" {
		return located{0, fmt.Errorf("%s: %s", flag, f.Text)}
	}
	return located{s.Line(f.Key), err}
}

// unjoin are the errors that were joined into one.
func unjoin(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &joined):
		return []error{err}
	}
	var all []error
	for _, each := range joined.Unwrap() {
		all = append(all, unjoin(each)...)
	}
	return all
}
