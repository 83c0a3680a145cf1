package ops

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// ReadConfig reads the YAML file into the struct that into points to, whose
// values stand for what the file leaves out. Its error is a UsageError: the file
// can't be read, or is not YAML. Unknown keys, wrong types and keys that stand
// there twice are in the Source, whose Check tells them with all else.
func ReadConfig(file string, into any) (*Source, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, Usage("read the configuration: %w; check the path behind --config", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, Usage("read the configuration %s: %w", file, err)
	}
	if len(b) > maxConfig {
		return nil, Usage("the configuration %s is larger than %d bytes; is it the right file?", file, maxConfig)
	}
	return ParseConfig(file, b, into)
}

// ParseConfig is ReadConfig for what stands in a file of that name.
func ParseConfig(file string, text []byte, into any) (*Source, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return &Source{file: file}, nil // an empty file leaves everything as it is
	}
	var faults *yaml.TypeError
	if err != nil && !errors.As(err, &faults) {
		return nil, notYAML(file, err)
	}
	var doc, second yaml.Node
	again := yaml.NewDecoder(bytes.NewReader(text))
	if err := again.Decode(&doc); err != nil {
		return nil, notYAML(file, err)
	}
	if err := again.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, Usage("the configuration %s has a second document behind a line of ---; put all into one", file)
	}
	var at places
	at.walk(&doc, "")
	s := &Source{file: file, lines: map[string]int{}}
	for _, p := range at {
		if s.lines[p.key] == 0 {
			s.lines[p.key] = p.line
		}
	}
	if faults != nil {
		known := knownKeys(reflect.TypeOf(into), nil)
		for _, text := range faults.Errors {
			s.wrong = append(s.wrong, at.plain(text, known))
		}
	}
	return s, nil
}

func notYAML(file string, err error) error {
	return Usage("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
}

// List takes "a", "a,b" and [a, b] in a configuration. An empty one is not nil.
type List []string

// UnmarshalYAML is that of package yaml.
func (l *List) UnmarshalYAML(decode func(any) error) error {
	var list []string
	if decode(&list) == nil {
		*l = append(List{}, list...)
		return nil
	}
	var one string
	if err := decode(&one); err != nil {
		return err
	}
	*l = append(List{}, SplitList(one)...)
	return nil
}

// SplitList gives the words between commas.
func SplitList(s string) []string {
	var out []string
	for each := range strings.SplitSeq(s, ",") {
		if each = strings.TrimSpace(each); each != "" {
			out = append(out, each)
		}
	}
	return out
}

// place is where a key or an element of a list stands.
type place struct {
	key   string // as in a Fault
	line  int
	value *yaml.Node
}

type places []place

func (p *places) walk(n *yaml.Node, key string) {
	switch n.Kind {
	case yaml.DocumentNode:
		p.walk(n.Content[0], key)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			below := strings.TrimPrefix(key+"."+k.Value, ".")
			*p = append(*p, place{below, k.Line, v})
			p.walk(v, below)
		}
	case yaml.SequenceNode:
		for i, v := range n.Content {
			below := fmt.Sprintf("%s[%d]", key, i)
			*p = append(*p, place{below, v.Line, v})
			p.walk(v, below)
		}
	}
}

// above is the key that all those that fit are, or are below of; "" where there
// is none.
func (p places) above(fits func(place) bool) string {
	key, found := "", false
	for _, each := range p {
		if !fits(each) {
			continue
		}
		if !found {
			key, found = each.key, true
		}
		for key != "" && each.key != key && !strings.HasPrefix(each.key, key+".") && !strings.HasPrefix(each.key, key+"[") {
			key = key[:max(0, strings.LastIndexAny(key, ".["))]
		}
	}
	return key
}

// knownKeys lists the keys of each struct type that t leads to, by the type's
// name.
func knownKeys(t reflect.Type, found map[string][]string) map[string][]string {
	if found == nil {
		found = map[string][]string{}
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return knownKeys(t.Elem(), found)
	case reflect.Struct:
	default:
		return found
	}
	if _, ok := found[t.String()]; ok {
		return found
	}
	found[t.String()] = nil
	for f := range t.Fields() {
		name, how, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if how == "inline" {
			knownKeys(f.Type, found)
			found[t.String()] = append(found[t.String()], found[f.Type.String()]...)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		found[t.String()] = append(found[t.String()], name)
		knownKeys(f.Type, found)
	}
	slices.Sort(found[t.String()])
	return found
}
