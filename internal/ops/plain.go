package ops

import (
	"strings"
	"unicode"
)

// maxPlain bounds what others may have us print, in bytes.
const maxPlain = 300

// Plain makes the words of another program fit for a terminal and a log:
// printable, of one line, and not long.
func Plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), maxPlain)], "?")
}
