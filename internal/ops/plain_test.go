package ops

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"no such service: ssh": "no such service: ssh",
		"a\x1b[31mred\nline":   "a?[31mred?line",
		"bell\a, null\x00":     "bell?, null?",
		"Zürich ✓":             "Zürich ✓",
	} {
		if got := Plain(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	long := Plain(strings.Repeat("ü", 1000))
	if len(long) > maxPlain+1 || !utf8.ValidString(long) {
		t.Errorf("%d bytes, valid %v", len(long), utf8.ValidString(long))
	}
}
