package dgram

// flags are what the kernel says of an IPv6 address of this host.
type flags struct {
	unusable   bool // somebody else on the link has it (RFC 4862 section 5.4)
	deprecated bool
}
