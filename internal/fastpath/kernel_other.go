//go:build !linux || mips || mips64 || ppc64 || s390x

package fastpath

// Kernel is none here.
type Kernel struct{}

// Detour is of no flow here.
type Detour struct{}

// Open says that there is none.
func Open() (*Kernel, error) { return nil, ErrKernel }

// Close does nothing.
func (*Kernel) Close() {}

// Flows is none.
func (*Kernel) Flows() int { return 0 }

// Begin refuses.
func (*Kernel) Begin(Flow) (*Detour, error) { return nil, ErrKernel }

// Allow does nothing.
func (*Detour) Allow(int) (bool, error) { return false, ErrKernel }

// Counts is nothing.
func (*Detour) Counts() Counts { return Counts{} }

// End does nothing.
func (*Detour) End() {}
