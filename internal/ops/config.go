package ops

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// ReadConfig reads the YAML file into the struct that into points to, whose
// values stand for what the file leaves out. An unknown key, a wrong type or
// a key given twice is a UsageError with the line; all of them at once.
func ReadConfig(file string, into any) error {
	f, err := os.Open(file)
	if err != nil {
		return Usage("read the configuration: %w; check the path behind --config", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Usage("read the configuration %s: %w", file, err)
	}
	if len(b) > maxConfig {
		return Usage("the configuration %s is larger than %d bytes; is it the right file?", file, maxConfig)
	}
	return parseConfig(file, b, into)
}

func parseConfig(file string, b []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil // an empty file leaves everything as it is
	}
	if err == nil {
		if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return Usage("the configuration %s has a second document behind a line of ---; put all into one", file)
		}
		return nil
	}
	var faults *yaml.TypeError
	if !errors.As(err, &faults) {
		return Usage("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	keys := knownKeys(reflect.TypeOf(into), nil)
	all := make([]error, len(faults.Errors))
	for i, fault := range faults.Errors {
		all[i] = errors.New(file + ":" + plainFault(fault, keys))
	}
	return &UsageError{Err: errors.Join(all...)}
}

var (
	faultLine  = regexp.MustCompile(`^line (\d+): `)
	unknownKey = regexp.MustCompile(`^(\d+: )field (\S+) not found in type (\S+)$`)
)

// plainFault rewrites what the YAML library says in Go's words for people who
// write configurations.
func plainFault(fault string, keys map[string][]string) string {
	fault = faultLine.ReplaceAllString(fault, "$1: ")
	m := unknownKey.FindStringSubmatch(fault)
	if m == nil {
		return fault
	}
	return fmt.Sprintf("%sunknown key %q; known here: %s", m[1], m[2], strings.Join(keys[m[3]], ", "))
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
