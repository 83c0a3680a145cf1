#!/bin/sh
# Checks that the object in the tree is made of bpf/flow.c. The sums beside it say of
# which source it is and by which compiler; where that one is here, the source is
# compiled again and compared. With "write" it writes the sums.
set -eu
cd "$(dirname "$0")"

sums() {
	sha256sum bpf/flow.c flow_bpfel.o flow_bpfel.go
	echo "$1"
}
compiler=$(clang --version 2>/dev/null | head -n 1) || true

if [ "${1:-}" = write ]; then
	sums "$compiler" >flow_bpfel.sum
	exit 0
fi
recorded=$(tail -n 1 flow_bpfel.sum)
if ! sums "$recorded" | diff -u flow_bpfel.sum -; then
	echo "check-generated: internal/fastpath has another object than its source says; run: go generate ./internal/fastpath" >&2
	exit 1
fi
[ "$compiler" = "$recorded" ] || exit 0
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
sed -n 's/^\/\/go:generate \(go run .*\)$/\1/p' generate.go | sed "s|flow bpf/flow.c|-output-dir $new flow bpf/flow.c|" | sh
for name in flow_bpfel.o flow_bpfel.go; do
	if ! cmp "$name" "$new/$name"; then
		echo "check-generated: internal/fastpath/$name is not what bpf/flow.c says; run: go generate ./internal/fastpath" >&2
		exit 1
	fi
done
