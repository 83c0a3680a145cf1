//go:build !race

package dgram

const racing = false
