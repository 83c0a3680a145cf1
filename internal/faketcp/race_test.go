//go:build race

package faketcp

// racing: under the race detector sync.Pool forgets at random, and allocates.
const racing = true
