package faketcp

import (
	"fmt"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What tells our segments from the kernel's own on a port that both use. A SYN
// or SYN/ACK has exactly these options behind its header: maximum segment size
// (any), window scale 14, SACK permitted. Every other segment has no option,
// and a window within the two bounds, which a kernel's hardly ever is: one that
// scales its window has smaller numbers, and one that does not says 65535.
const (
	synHeader  = 32 // with the options
	synMSS     = 0x0204
	synScale   = 0x0103030e // no operation; window scale 14
	synSACK    = 0x01010402 // twice no operation; SACK permitted
	lowWindow  = 0xfe00
	highWindow = 0xfffe
)

// What a filter returns: how much of the packet to keep.
const (
	keepAll = 1 << 18
	dropAll = 0
)

// The offset of the IP header, by the kind of link (ARPHRD_*): a link that has
// no header of its own (TUN, WireGuard, PPP) starts with it.
const (
	framedOffset = 14
	bareOffset   = 0
)

// target is where a jump of a program leads.
type target int

const (
	next target = iota
	keep
	drop
	asSYN
	targets // how many there are
)

// program is a classic BPF program that is being written.
type program struct {
	code  []bpf.Instruction
	jumps []jump
	marks [targets]int // where a target is
}

type jump struct {
	at      int
	yes, no target
}

func (p *program) add(i ...bpf.Instruction) { p.code = append(p.code, i...) }

func (p *program) mark(t target) { p.marks[t] = len(p.code) }

// test jumps by what the accumulator holds.
func (p *program) test(cond bpf.JumpTest, value uint32, yes, no target) {
	p.jumps = append(p.jumps, jump{at: len(p.code), yes: yes, no: no})
	p.add(bpf.JumpIf{Cond: cond, Val: value})
}

// finish writes the program's two ends and resolves all jumps since the last
// finish.
func (p *program) finish(kept, dropped uint32) {
	p.mark(keep)
	p.add(bpf.RetConstant{Val: kept})
	p.mark(drop)
	p.add(bpf.RetConstant{Val: dropped})
	for _, j := range p.jumps {
		i := p.code[j.at].(bpf.JumpIf)
		i.SkipTrue, i.SkipFalse = p.skip(j.at, j.yes), p.skip(j.at, j.no)
		p.code[j.at] = i
	}
	p.jumps = nil
}

func (p *program) skip(from int, t target) uint8 {
	if t == next {
		return 0
	}
	return uint8(p.marks[t] - from - 1)
}

// ours keeps what only our segments are. The TCP header is at X + offset.
func (p *program) ours(offset uint32) {
	field := func(at uint32, size int) { p.add(bpf.LoadIndirect{Off: offset + at, Size: size}) }
	field(13, 1)
	p.test(bpf.JumpBitsSet, flagSYN, asSYN, next)
	p.test(bpf.JumpBitsSet, flagACK, next, drop)
	field(12, 1)
	p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0})
	p.test(bpf.JumpEqual, tcpSize/4<<4, next, drop)
	field(14, 2)
	p.test(bpf.JumpGreaterOrEqual, lowWindow, next, drop)
	p.test(bpf.JumpGreaterThan, highWindow, drop, keep)
	p.mark(asSYN)
	field(12, 1)
	p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0})
	p.test(bpf.JumpEqual, synHeader/4<<4, next, drop)
	field(20, 2)
	p.test(bpf.JumpEqual, synMSS, next, drop)
	field(24, 4)
	p.test(bpf.JumpEqual, synScale, next, drop)
	field(28, 4)
	p.test(bpf.JumpEqual, synSACK, keep, drop)
}

// nothing is the guard's filter: no segment reaches the kernel's TCP.
func nothing() []bpf.Instruction { return []bpf.Instruction{bpf.RetConstant{Val: dropAll}} }

// withoutOurs is the filter of a kernel's listener that shares its port with
// us. A TCP socket's filter sees the TCP header first.
func withoutOurs() []bpf.Instruction {
	p := new(program)
	p.add(bpf.LoadConstant{Dst: bpf.RegX, Val: 0})
	p.ours(0)
	p.finish(dropAll, keepAll)
	return p.code
}

// linkKind loads the interface's kind, ARPHRD_*: SKF_AD_OFF + SKF_AD_HATYPE of
// linux/filter.h, which package bpf has no name for.
var linkKind = bpf.RawInstruction{Op: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfffff000 + 28}

// segmentsTo is the packet socket's filter: unfragmented TCP to a port of this
// host, of all or only ours.
func segmentsTo(port uint16, six, onlyOurs bool) []bpf.Instruction {
	framed := segmentsAt(framedOffset, port, six, onlyOurs)
	bare := segmentsAt(bareOffset, port, six, onlyOurs)
	p := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType}, // PACKET_HOST: not what a bridge or a promiscuous card overhears
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_HOST, SkipTrue: 1},
		bpf.RetConstant{Val: dropAll},
		linkKind,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ARPHRD_ETHER, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ARPHRD_LOOPBACK, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(framed))},
	}
	return append(append(p, framed...), bare...)
}

// segmentsAt is segmentsTo for packets whose IP header is at offset.
func segmentsAt(offset uint32, port uint16, six, onlyOurs bool) []bpf.Instruction {
	p := new(program)
	if six {
		p.add(bpf.LoadAbsolute{Off: offset + 6, Size: 1})
		p.test(bpf.JumpEqual, protocolTCP, next, drop)
		p.add(bpf.LoadConstant{Dst: bpf.RegX, Val: ip6Size})
	} else {
		p.add(bpf.LoadAbsolute{Off: offset + 9, Size: 1})
		p.test(bpf.JumpEqual, protocolTCP, next, drop)
		p.add(bpf.LoadAbsolute{Off: offset + 6, Size: 2})
		p.test(bpf.JumpBitsSet, 0x3fff, drop, next) // more fragments, or an offset
		p.add(bpf.LoadMemShift{Off: offset})
	}
	p.add(bpf.LoadIndirect{Off: offset + 2, Size: 2})
	p.test(bpf.JumpEqual, uint32(port), next, drop)
	if onlyOurs {
		p.ours(offset)
	}
	p.finish(keepAll, dropAll)
	return p.code
}

// resetsFrom is the filter of a socket that sees all packets from their IP
// header on, and keeps the RSTs that leave from a port.
func resetsFrom(port uint16, six bool) []bpf.Instruction {
	p := new(program)
	p.add(bpf.LoadExtension{Num: bpf.ExtType})
	p.test(bpf.JumpEqual, unix.PACKET_OUTGOING, next, drop)
	p.add(bpf.LoadExtension{Num: bpf.ExtProto})
	protocol, x := uint32(9), bpf.Instruction(bpf.LoadMemShift{Off: 0})
	if six {
		p.test(bpf.JumpEqual, unix.ETH_P_IPV6, next, drop)
		protocol, x = 6, bpf.LoadConstant{Dst: bpf.RegX, Val: ip6Size}
	} else {
		p.test(bpf.JumpEqual, unix.ETH_P_IP, next, drop)
	}
	p.add(bpf.LoadAbsolute{Off: protocol, Size: 1})
	p.test(bpf.JumpEqual, protocolTCP, next, drop)
	p.add(x, bpf.LoadIndirect{Off: 0, Size: 2})
	p.test(bpf.JumpEqual, uint32(port), next, drop)
	p.add(bpf.LoadIndirect{Off: 13, Size: 1})
	p.test(bpf.JumpBitsSet, flagRST, keep, drop)
	p.finish(keepAll, dropAll)
	return p.code
}

// attach sets a socket's filter, which replaces the one before.
func attach(fd int, code []bpf.Instruction) error {
	return attachAs(fd, unix.SO_ATTACH_FILTER, code)
}

// attachAs sets one of a socket's programs.
func attachAs(fd, option int, code []bpf.Instruction) error {
	raw, err := bpf.Assemble(code)
	if err != nil {
		return fmt.Errorf("assemble a packet filter: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option, &prog); err != nil {
		return fmt.Errorf("attach a packet filter to a socket (option %d): %w", option, err)
	}
	return nil
}
