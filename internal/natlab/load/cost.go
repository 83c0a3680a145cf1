//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// cost is what one process has used: processor time (user and system) so far,
// and memory now.
type cost struct {
	cpu float64 // seconds
	rss int64   // bytes
}

// clockTicks is USER_HZ, 100 on every Linux that Go runs on.
const clockTicks = 100

func costsOf(pids []int) ([]cost, error) {
	all := make([]cost, len(pids))
	for i, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil, fmt.Errorf("read what process %d has used: %w", pid, err)
		}
		ticks, pages, err := parseStat(string(stat))
		if err != nil {
			return nil, fmt.Errorf("read what process %d has used: %w", pid, err)
		}
		all[i] = cost{float64(ticks) / clockTicks, pages * int64(os.Getpagesize())}
	}
	return all, nil
}

// parseStat reads fields 14, 15 and 24 of /proc/PID/stat (proc(5)). The second
// is a name in parentheses that may hold anything.
func parseStat(stat string) (ticks, pages int64, err error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return 0, 0, fmt.Errorf("%q is not a line of proc(5)", stat)
	}
	var values [3]int64
	for i, field := range []int{14, 15, 24} {
		if values[i], err = strconv.ParseInt(fields[field-3], 10, 64); err != nil {
			return 0, 0, err
		}
	}
	return values[0] + values[1], values[2], nil
}

// pidList is a flag: process ids, with commas between.
type pidList []int

// String is the flag's value.
func (p *pidList) String() string { return fmt.Sprint([]int(*p)) }

// Set reads the flag.
func (p *pidList) Set(s string) error {
	for field := range strings.SplitSeq(s, ",") {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		*p = append(*p, pid)
	}
	return nil
}
