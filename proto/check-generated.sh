#!/bin/sh
# Regenerates the protobuf code beside the committed one and compares: a .proto
# that was changed without `go generate` fails here. The lines that name the
# tools' versions don't count.
set -eu
cd "$(dirname "$0")"
PATH="$PATH:$(go env GOPATH)/bin"
for tool in protoc protoc-gen-go; do
	if ! command -v "$tool" >/dev/null; then
		echo "check-generated: $tool is not installed; try: apt-get install protobuf-compiler && go install google.golang.org/protobuf/cmd/protoc-gen-go@latest" >&2
		exit 1
	fi
done
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
mkdir "$new/raw"
protoc --go_out="$new/raw" --go_opt=paths=source_relative control.proto peer.proto
stale=0
for name in control.pb.go peer.pb.go; do
	sed '/^\/\/ \(- \)\{0,1\}[	 ]*protoc/d' "$name" >"$new/committed"
	sed '/^\/\/ \(- \)\{0,1\}[	 ]*protoc/d' "$new/raw/$name" >"$new/fresh"
	if ! diff -u "$new/committed" "$new/fresh"; then
		echo "check-generated: proto/$name is not what its .proto says; run: go generate ./proto" >&2
		stale=1
	fi
done
exit $stale
