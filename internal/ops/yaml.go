package ops

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// What the YAML library says in Go's words.
var (
	yamlLine    = regexp.MustCompile(`^line (\d+): (?s:(.*))$`)
	yamlUnknown = regexp.MustCompile(`^field (\S+) not found in type (\S+)$`)
	yamlTwice   = regexp.MustCompile(`^mapping key "(.*)" already defined at line (\d+)$`)
	yamlType    = regexp.MustCompile("^cannot unmarshal (!!\\w+)(?: `(.*)`)? into (\\S+)$")
)

// plain says a fault of reading for people who write configurations, with its
// key where the line tells which that is.
func (p places) plain(fault string, known map[string][]string) located {
	m := yamlLine.FindStringSubmatch(fault)
	if m == nil {
		return located{0, errors.New(fault)}
	}
	line, err := strconv.Atoi(m[1])
	if err != nil {
		return located{0, errors.New(fault)}
	}
	named := func(name string) func(place) bool {
		return func(e place) bool { return e.line == line && (e.key == name || strings.HasSuffix(e.key, "."+name)) }
	}
	text, key := m[2], ""
	switch {
	case yamlUnknown.MatchString(text):
		m := yamlUnknown.FindStringSubmatch(text)
		key, text = p.above(named(m[1])), "unknown key; known here: "+strings.Join(known[m[2]], ", ")
	case yamlTwice.MatchString(text):
		m := yamlTwice.FindStringSubmatch(text)
		key, text = p.above(named(m[1])), "it stands here a second time, first in line "+m[2]
	case yamlType.MatchString(text):
		m := yamlType.FindStringSubmatch(text)
		value := strings.TrimSuffix(m[2], "...")
		key = p.above(func(e place) bool {
			return e.value.Line == line && e.value.ShortTag() == m[1] && strings.HasPrefix(e.value.Value, value)
		})
		text = "it is " + plainValue(m[1], m[2]) + ", and must be " + plainType(m[3])
	default:
		key = p.above(func(e place) bool { return e.line == line })
	}
	if key == "" {
		return located{line, errors.New(text)}
	}
	return located{line, &Fault{key, text}}
}

func plainValue(tag, value string) string {
	switch tag {
	case "!!seq":
		return "a list"
	case "!!map":
		return "lines of KEY: VALUE"
	}
	return fmt.Sprintf("%q", value)
}

// plainType is a type of Go's as people call its values.
func plainType(name string) string {
	switch {
	case strings.HasPrefix(name, "[]"), strings.HasSuffix(name, ".List"):
		return "a list"
	case name == "string":
		return "one word"
	case name == "bool":
		return "true or false"
	case name == "time.Duration":
		return "a time, such as 30s or 3m"
	case name == "uint16":
		return "a whole number from 0 to 65535"
	case strings.HasPrefix(name, "int"), strings.HasPrefix(name, "uint"):
		return "a whole number"
	case strings.HasPrefix(name, "float"):
		return "a number"
	}
	return "lines of KEY: VALUE"
}
