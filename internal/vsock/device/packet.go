package device

import "encoding/binary"

// The wire format of virtio 1.2, section 5.10.6.
const (
	headerSize = 44 // bytes
	hostCID    = 2
	typeStream = 1

	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	shutRecv = 1 // the sender of the packet will receive no more
	shutSend = 2 // the sender of the packet will send no more
	shutBoth = shutRecv | shutSend
)

// header is a packet's header.
type header struct {
	src, dst         uint64 // CIDs
	srcPort, dstPort uint32
	size             uint32 // payload bytes
	typ, op          uint16
	flags            uint32
	alloc, taken     uint32 // the sender's buffer, and the bytes its reader has taken
}

func parseHeader(b *[headerSize]byte) header {
	l := binary.LittleEndian
	return header{
		src: l.Uint64(b[0:]), dst: l.Uint64(b[8:]),
		srcPort: l.Uint32(b[16:]), dstPort: l.Uint32(b[20:]),
		size: l.Uint32(b[24:]), typ: l.Uint16(b[28:]), op: l.Uint16(b[30:]),
		flags: l.Uint32(b[32:]), alloc: l.Uint32(b[36:]), taken: l.Uint32(b[40:]),
	}
}

func (h *header) bytes() (b [headerSize]byte) {
	l := binary.LittleEndian
	l.PutUint64(b[0:], h.src)
	l.PutUint64(b[8:], h.dst)
	l.PutUint32(b[16:], h.srcPort)
	l.PutUint32(b[20:], h.dstPort)
	l.PutUint32(b[24:], h.size)
	l.PutUint16(b[28:], h.typ)
	l.PutUint16(b[30:], h.op)
	l.PutUint32(b[32:], h.flags)
	l.PutUint32(b[36:], h.alloc)
	l.PutUint32(b[40:], h.taken)
	return b
}
