//go:build !race

package faketcp

const racing = false
