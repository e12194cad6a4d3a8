package virtq

// Buffers are pieces of guest memory that belong together, in order. The guest
// may change them at any time: copy out, then look.
type Buffers [][]byte

// Len returns the bytes that b holds.
func (b Buffers) Len() int {
	n := 0
	for _, s := range b {
		n += len(s)
	}
	return n
}

// CopyOut copies from b, beginning at byte off, to dst; it returns the bytes
// copied, fewer than len(dst) where b ends first.
func (b Buffers) CopyOut(off int, dst []byte) int {
	n := 0
	for _, s := range b {
		if off >= len(s) {
			off -= len(s)
			continue
		}
		n += copy(dst[n:], s[off:])
		off = 0
		if n == len(dst) {
			break
		}
	}
	return n
}

// CopyIn copies src to b, beginning at byte off; it returns the bytes copied.
func (b Buffers) CopyIn(off int, src []byte) int {
	n := 0
	for _, s := range b {
		if off >= len(s) {
			off -= len(s)
			continue
		}
		n += copy(s[off:], src[n:])
		off = 0
		if n == len(src) {
			break
		}
	}
	return n
}
