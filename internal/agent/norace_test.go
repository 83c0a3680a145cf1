//go:build !race

package agent

// racing: the race detector makes everything slower, so long tests are shorter.
const racing = false
