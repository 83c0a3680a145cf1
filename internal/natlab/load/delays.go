//go:build linux

package main

import (
	"math/bits"
	"time"
)

// delays counts delays by their length: eight ranges to each doubling.
type delays [64 * subranges]uint32

const subranges = 8

func (d *delays) add(delay time.Duration) {
	d[rangeOf(uint64(max(0, delay.Microseconds())))]++
}

// rangeOf numbers the ranges upwards.
func rangeOf(micros uint64) int {
	if micros < subranges {
		return int(micros)
	}
	doublings := bits.Len64(micros) - bits.Len64(subranges)
	return (doublings+1)*subranges + int(micros>>doublings)%subranges
}

// lowest is the least of a range, in microseconds.
func lowest(number int) uint64 {
	if number < subranges {
		return uint64(number)
	}
	return uint64(subranges+number%subranges) << (number/subranges - 1)
}

// quantile is the delay that so much of all had at most, in microseconds.
func (d *delays) quantile(q float64) uint64 {
	all := uint64(0)
	for _, n := range d {
		all += uint64(n)
	}
	left := uint64(q * float64(all))
	for i, n := range d {
		if left < uint64(n) {
			return lowest(i)
		}
		left -= uint64(n)
	}
	return 0
}
