package tun

import "encoding/binary"

// vnetSize is the length of struct virtio_net_hdr, which stands before each
// packet of a device with IFF_VNET_HDR and says what is still to be done with
// it (linux/virtio_net.h). Its numbers are in the machine's byte order.
const vnetSize = 10

// Its flags, and the kinds of super-segment.
const (
	vnetNeedsSum = 1 // the checksum holds the pseudo header's part alone

	vnetPlain = 0
	vnetTCP4  = 1
	vnetTCP6  = 4
	vnetECN   = 0x80 // beside one of them: CWR is for the first segment alone
)

type vnetHeader struct {
	flags, kind uint8
	headers     uint16 // bytes of IP's and TCP's header
	size        uint16 // bytes of payload in each segment but the last
	sumStart    uint16 // from the packet's beginning
	sumOffset   uint16 // from sumStart
}

func (h *vnetHeader) read(b []byte) {
	h.flags, h.kind = b[0], b[1]
	h.headers = binary.NativeEndian.Uint16(b[2:])
	h.size = binary.NativeEndian.Uint16(b[4:])
	h.sumStart = binary.NativeEndian.Uint16(b[6:])
	h.sumOffset = binary.NativeEndian.Uint16(b[8:])
}

func (h *vnetHeader) put(b []byte) {
	b[0], b[1] = h.flags, h.kind
	binary.NativeEndian.PutUint16(b[2:], h.headers)
	binary.NativeEndian.PutUint16(b[4:], h.size)
	binary.NativeEndian.PutUint16(b[6:], h.sumStart)
	binary.NativeEndian.PutUint16(b[8:], h.sumOffset)
}
