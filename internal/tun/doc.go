// Package tun carries the TCP packets of a TUN device as datagrams that hold
// the TCP segment alone: no inner IP header crosses, so a packet costs 8 bytes
// more than native TCP, UDP's header. What stands on the wire is section 21 of
// proto/SPEC.md.
//
// A packet of the device loses its IP header and becomes a datagram; a datagram
// gets a fresh IP header, from an inside address that stands for its sender to
// the device's own. Who is reached at which address is Peers'.
//
// The kernel hands over and takes super-segments of up to 64 KiB (struct
// virtio_net_hdr): one is cut into the datagrams of a dgram.Burst, and a burst
// joined into one again.
package tun
