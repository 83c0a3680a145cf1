//go:build race

package agent

const racing = true
