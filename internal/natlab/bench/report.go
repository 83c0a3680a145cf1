//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
)

// report prints Markdown as it comes, counts targets, and keeps figures as JSON.
type report struct {
	text            bytes.Buffer
	targets, missed int
	figures         document
}

// document is the report for programs.
type document struct {
	Machine machine        `json:"machine"`
	Date    string         `json:"date"` // RFC 3339
	Targets []verdict      `json:"targets"`
	Figures map[string]any `json:"figures"` // by part; lists are by run
}

type machine struct {
	Processors int    `json:"processors"`
	Model      string `json:"model"`
	Platform   string `json:"platform"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
}

// verdict is one target.
type verdict struct {
	What   string `json:"what"`
	Figure string `json:"figure"`
	Want   string `json:"want"`
	Met    bool   `json:"met"`
}

func newReport() *report {
	r := &report{figures: document{
		Machine: machine{runtime.NumCPU(), processorModel(), runtime.GOOS + "/" + runtime.GOARCH, netns.Kernel(), runtime.Version()},
		Date:    time.Now().UTC().Format(time.RFC3339),
		Figures: map[string]any{},
	}}
	m := r.figures.Machine
	r.line("# Figures\n")
	r.line("By `make bench` on %s: %d processors (%s), %s, Linux %s, %s. Load, sink, all programs and the NATs share the processors,",
		r.figures.Date[:len(time.DateOnly)], m.Processors, m.Model, m.Platform, m.Kernel, m.Go)
	r.line("so compare rows of one run, not runs or machines. Programs and NATs are network namespaces of one machine.")
	return r
}

// processorModel is what /proc/cpuinfo calls the first processor.
func processorModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "of unknown model"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "of unknown model"
}

func (r *report) line(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	fmt.Fprintf(&r.text, format+"\n", args...)
}

// target prints a figure beside what it should be.
func (r *report) target(met bool, what, figure, want string) {
	r.targets++
	said := "met"
	if !met {
		r.missed++
		said = "MISSED"
	}
	r.figures.Targets = append(r.figures.Targets, verdict{what, figure, want, met})
	r.line("- %s: **%s** (target %s: %s)", what, figure, want, said)
}

// keep puts figures into the JSON.
func (r *report) keep(part string, figures any) { r.figures.Figures[part] = figures }

// write puts the report into a file, and its figures beside it.
func (r *report) write(file string) error {
	if err := os.WriteFile(file, r.text.Bytes(), 0o644); err != nil {
		return err
	}
	figures, err := json.MarshalIndent(r.figures, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(file, filepath.Ext(file))+".json", append(figures, '\n'), 0o644)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
