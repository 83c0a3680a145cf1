//go:build linux

package main

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
)

func TestHeader(t *testing.T) {
	h := header{kind: kindEcho, checked: true, run: 0x0102, number: 3, sent: 4, seen: 5}
	const want = "72647632" + "0401" + "0102" + "0000000000000003" + "0000000000000004" + "0000000000000005"
	b := make([]byte, headerSize)
	h.put(b)
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("header is\n%s, want\n%s", got, want)
	}
	if got, err := parseHeader(b); err != nil || got != h {
		t.Errorf("read back %+v, %v", got, err)
	}
	for name, bad := range map[string][]byte{"short": b[:headerSize-1], "empty": nil, "foreign": make([]byte, headerSize)} {
		if _, err := parseHeader(bad); err == nil {
			t.Errorf("a %s header was taken", name)
		}
	}
}

func FuzzDatagram(f *testing.F) {
	b := make([]byte, countsSize)
	header{kind: kindCounts, number: 1}.put(b)
	counts{received: 7}.put(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		again := make([]byte, headerSize)
		h.put(again)
		if back, err := parseHeader(again); err != nil || back != h {
			t.Fatalf("%+v became %+v, %v", h, back, err)
		}
		if c, err := parseCounts(b); err == nil {
			again := make([]byte, countsSize)
			c.put(again)
			if !bytes.Equal(again[headerSize:], b[headerSize:countsSize]) {
				t.Fatalf("counts %+v became %x", c, again)
			}
		}
	})
}

func TestTally(t *testing.T) {
	data := func(number uint64, content bool) []byte {
		b := make([]byte, 200)
		header{kind: kindData, checked: true, number: number}.put(b)
		if content {
			fill(b[headerSize:], number)
		}
		return b
	}
	k := &tally{from: map[netip.AddrPort]bool{}}
	for _, step := range []struct {
		number  uint64
		content bool
	}{{0, true}, {2, true}, {1, true}, {2, true}, {70_000, true}, {5, false}, {maxNumber, true}} {
		b := data(step.number, step.content)
		h, err := parseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		k.count(h, b, 0)
	}
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	for _, from := range []netip.AddrPort{a, b, a} {
		k.echo(header{kind: kindEcho}, make([]byte, headerSize), from)
	}
	want := counts{received: 4, bytes: 800, duplicates: 1, reordered: 1, wrong: 2, sources: 2}
	if k.counts != want {
		t.Errorf("counted %+v, want %+v", k.counts, want)
	}
}

func TestSinkForgetsTheOldestRun(t *testing.T) {
	k := &sink{runs: map[uint16]*tally{}}
	for run := range uint16(keptRuns) {
		k.tally(100 + run).received = uint64(run) + 1
	}
	k.tally(100 + keptRuns)
	if len(k.runs) != keptRuns || k.tally(101).received != 2 {
		t.Errorf("%d runs kept, the second has %d", len(k.runs), k.tally(101).received)
	}
	if k.tally(100).received != 0 {
		t.Error("the oldest run was kept")
	}
}

func TestParseStat(t *testing.T) {
	const line = "412 (a (b) c) S 1 412 412 0 -1 4194560 99 0 0 0 150 25 0 0 20 0 7 0 5511 1268000 812 18446744073709551615 1"
	ticks, pages, err := parseStat(line)
	if err != nil || ticks != 175 || pages != 812 {
		t.Errorf("read %d ticks, %d pages, %v", ticks, pages, err)
	}
	if _, _, err := parseStat("412 (x) S 1"); err == nil {
		t.Error("a line that is too short was taken")
	}
}
