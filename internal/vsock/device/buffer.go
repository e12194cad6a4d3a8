package device

import "github.com/ultravioletrs/cocos/internal/vsock/virtq"

// buffer holds what the guest sent until its reader takes it: at most
// bufferSize bytes, which the credit sees to.
type buffer struct {
	data []byte // data[off:] is unread
	off  int
}

func (b *buffer) len() int { return len(b.data) - b.off }

// fill appends n bytes of a packet, beginning at off in it. It is false, and
// nothing is appended, where the packet is shorter.
func (b *buffer) fill(n int, from virtq.Buffers, off int) bool {
	unread := b.data[b.off:]
	if cap(b.data)-len(b.data) < n {
		to := b.data
		if need := len(unread) + n; cap(to) < need {
			size := 64 << 10
			for size < need {
				size *= 2
			}
			to = make([]byte, 0, size)
		}
		b.data, b.off = append(to[:0], unread...), 0
	}
	end := len(b.data)
	if from.CopyOut(off, b.data[end:end+n]) != n {
		return false
	}
	b.data = b.data[:end+n]
	return true
}

// take moves bytes to p and returns their number.
func (b *buffer) take(p []byte) int {
	n := copy(p, b.data[b.off:])
	if b.off += n; b.off == len(b.data) {
		b.data, b.off = b.data[:0], 0
	}
	return n
}

// drop forgets everything.
func (b *buffer) drop() { b.data, b.off = nil, 0 }
