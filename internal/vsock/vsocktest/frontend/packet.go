package frontend

import (
	"encoding/binary"
	"fmt"
)

// Operations of vsock packets.
const (
	OpRequest       = 1
	OpResponse      = 2
	OpReset         = 3
	OpShutdown      = 4
	OpData          = 5
	OpCreditUpdate  = 6
	OpCreditRequest = 7

	ShutRecv = 1
	ShutSend = 2
)

// HeaderSize is a packet header's size in bytes.
const HeaderSize = 44

// Packet is one vsock packet. Size is what its header says, which need not be
// the size of Data.
type Packet struct {
	Src, Dst         uint64
	SrcPort, DstPort uint32
	Size             uint32
	Type, Op         uint16
	Flags            uint32
	Alloc, Taken     uint32
	Data             []byte
}

// Bytes is the packet as it lies in memory.
func (p Packet) Bytes() []byte {
	l := binary.LittleEndian
	b := l.AppendUint64(nil, p.Src)
	b = l.AppendUint64(b, p.Dst)
	for _, v := range []uint32{p.SrcPort, p.DstPort, p.Size, uint32(p.Type) | uint32(p.Op)<<16, p.Flags, p.Alloc, p.Taken} {
		b = l.AppendUint32(b, v)
	}
	return append(b, p.Data...)
}

// Parse reads a packet.
func Parse(b []byte) (Packet, error) {
	if len(b) < HeaderSize {
		return Packet{}, fmt.Errorf("a packet of %d bytes", len(b))
	}
	l := binary.LittleEndian
	return Packet{
		Src: l.Uint64(b), Dst: l.Uint64(b[8:]), SrcPort: l.Uint32(b[16:]), DstPort: l.Uint32(b[20:]), Size: l.Uint32(b[24:]),
		Type: l.Uint16(b[28:]), Op: l.Uint16(b[30:]), Flags: l.Uint32(b[32:]), Alloc: l.Uint32(b[36:]), Taken: l.Uint32(b[40:]),
		Data: append([]byte(nil), b[HeaderSize:]...),
	}, nil
}

// String is for a test's messages.
func (p Packet) String() string {
	return fmt.Sprintf("%d:%d->%d:%d op %d flags %d size %d alloc %d taken %d", p.Src, p.SrcPort, p.Dst, p.DstPort, p.Op, p.Flags, p.Size, p.Alloc, p.Taken)
}

// SendPacket puts a packet on the transmit ring, in one buffer, and waits until
// the device has taken it.
func (f *Frontend) SendPacket(p Packet) error { return f.SendBytes(p.Bytes()) }

// SendBytes does so with any bytes.
func (f *Frontend) SendBytes(b []byte) error {
	i := f.TX.next % RingSize
	at := f.TX.Buffer(i)
	if len(b) > BufferSize {
		return fmt.Errorf("%d bytes do not fit into a buffer", len(b))
	}
	copy(f.Mem[at:], b)
	f.SetDesc(f.TX.Desc, int(i), Desc{Addr: GuestBase + at, Len: uint32(len(b))})
	f.TX.Offer(i, 1)
	head, _, err := f.TX.NextUsed()
	if err == nil && head != uint32(i) {
		err = fmt.Errorf("the device returned chain %d, not %d", head, i)
	}
	return err
}

// FillRX posts every receive buffer.
func (f *Frontend) FillRX() error {
	for range RingSize {
		f.PostRX()
	}
	return nil
}

// PostRX posts one receive buffer.
func (f *Frontend) PostRX() {
	i := f.RX.next % RingSize
	f.SetDesc(f.RX.Desc, int(i), Desc{Addr: GuestBase + f.RX.Buffer(i), Len: BufferSize, Flags: Write})
	f.RX.Offer(i, 1)
}

// ReceivePacket waits for a packet, and posts its buffer again.
func (f *Frontend) ReceivePacket() (Packet, error) {
	p, err := f.TakePacket()
	if err == nil {
		f.PostRX()
	}
	return p, err
}

// TakePacket waits for a packet, and posts nothing.
func (f *Frontend) TakePacket() (Packet, error) {
	head, n, err := f.RX.NextUsed()
	if err != nil {
		return Packet{}, err
	}
	if head >= RingSize || n > BufferSize {
		return Packet{}, fmt.Errorf("the device returned chain %d with %d bytes", head, n)
	}
	at := f.RX.Buffer(uint16(head))
	return Parse(f.Mem[at : at+uint64(n)])
}

// Post puts bytes on the ring, in one buffer, and does not wait.
func (r *Ring) Post(b []byte) {
	i := r.next % RingSize
	at := r.Buffer(i)
	n := copy(r.f.Mem[at:at+BufferSize], b)
	r.f.SetDesc(r.Desc, int(i), Desc{Addr: GuestBase + at, Len: uint32(n)})
	r.Offer(i, 1)
}
