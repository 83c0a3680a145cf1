package fastpath

// It takes Debian's clang, libbpf-dev and linux-libc-dev, whose asm/ stands in a
// folder of the host's architecture. Nothing else does: the object is in the tree.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package fastpath -cc clang -cflags "-O2 -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -target bpfel -tags linux -type addresses -type arrival -type departure flow bpf/flow.c
//go:generate ./check-generated.sh write
