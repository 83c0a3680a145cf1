#!/bin/sh
# Runs each fuzz target of the tree for a while, one after the other: fuzzing
# takes all processors by itself. By default it makes an input smaller for up to
# a minute, and tries nothing else meanwhile.
set -eu

time=${1:-10s}
for package in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "fuzz $package $target for $time"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 100x "$package"
	done
done
