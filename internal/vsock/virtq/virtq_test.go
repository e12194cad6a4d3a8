package virtq

import (
	"encoding/binary"
	"errors"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	fuzzMemory = 1 << 16
	fuzzSize   = 8
)

// memory is sealed guest memory of two touching regions.
func memory(tb testing.TB) *Memory {
	tb.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, fuzzMemory); err != nil {
		tb.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		tb.Fatal(err)
	}
	m, err := Map([]Region{
		{GuestAddr: 0, Size: fuzzMemory / 2, UserAddr: 1 << 32},
		{GuestAddr: fuzzMemory / 2, Size: fuzzMemory / 2, UserAddr: 1 << 33, Offset: fuzzMemory / 2},
	}, []int{fd, fd})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// FuzzRings lets a guest write anything into its rings, at any time. Whatever
// it writes, what comes out lies inside guest memory and within the bounds, and
// a broken queue says so.
func FuzzRings(f *testing.F) {
	chain := make([]byte, 4096+64)
	l := binary.LittleEndian
	l.PutUint64(chain, 0x3000)       // descriptor 0: a readable buffer,
	l.PutUint32(chain[8:], 100)      //
	l.PutUint16(chain[12:], 1)       // and on
	l.PutUint16(chain[14:], 1)       // to descriptor 1:
	l.PutUint64(chain[16:], 0x7ff0)  // a writable one across the regions
	l.PutUint32(chain[24:], 100)     //
	l.PutUint16(chain[28:], 2)       //
	l.PutUint32(chain[4096:], 1<<16) // one chain is available
	f.Add(chain)
	loop := append([]byte(nil), chain...)
	l.PutUint16(loop[14:], 0)
	f.Add(loop)
	table := append([]byte(nil), chain...)
	l.PutUint64(table, 16) // an indirect table, which is the ring's own
	l.PutUint32(table[8:], 16)
	l.PutUint16(table[12:], 4)
	f.Add(table)
	f.Fuzz(func(t *testing.T, guest []byte) {
		m := memory(t)
		defer m.Unmap()
		copy(m.maps[0].data, guest)
		copy(m.maps[0].data[0x4000:], guest) // indirect tables find something too
		var q Queue
		if err := q.Attach(m, Layout{Size: fuzzSize, Desc: 1 << 32, Avail: 1<<32 + 4096, Used: 1<<32 + 8192}); err != nil {
			t.Fatal(err)
		}
		var c Chain
		for range 2 * fuzzSize {
			ok, err := q.Pop(&c)
			if err != nil {
				if !errors.Is(err, ErrBroken) {
					t.Fatal(err)
				}
				return
			}
			if !ok {
				return
			}
			if n := c.Out.Len() + c.In.Len(); n > maxChain {
				t.Fatalf("a chain of %d bytes", n)
			}
			for _, bs := range []Buffers{c.Out, c.In} {
				for _, b := range bs {
					if !m.holds(b) {
						t.Fatalf("a buffer outside guest memory")
					}
				}
			}
			c.In.CopyIn(0, []byte("the device writes where the guest says, rings included"))
			q.Push(c.Head, 10)
			q.Publish()
			q.WantKicks(true)
		}
	})
}

func (m *Memory) holds(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	at := uintptr(unsafe.Pointer(&b[0]))
	for _, mp := range m.maps {
		start := uintptr(unsafe.Pointer(&mp.data[0]))
		if at >= start && at+uintptr(len(b)) <= start+uintptr(len(mp.data)) {
			return true
		}
	}
	return false
}

func TestBuffers(t *testing.T) {
	b := Buffers{make([]byte, 3), {}, make([]byte, 2), make([]byte, 5)}
	if n := b.CopyIn(2, []byte("abcdefghijkl")); n != 8 {
		t.Errorf("CopyIn: %d", n)
	}
	out := make([]byte, 20)
	if n := b.CopyOut(1, out); n != 9 || string(out[:n]) != "\x00abcdefgh" {
		t.Errorf("CopyOut: %d %q", n, out[:n])
	}
	if n := b.CopyOut(10, out); n != 0 || b.Len() != 10 {
		t.Errorf("CopyOut behind the end: %d of %d", n, b.Len())
	}
}

// The index words wrap, the rings go round.
func TestQueueGoesRound(t *testing.T) {
	m := memory(t)
	defer m.Unmap()
	mem := m.maps[0].data
	const avail, used = 4096, 8192
	word(mem[avail:]).Store(0xfffe << 16)
	word(mem[used:]).Store(0xfffe << 16)
	var q Queue
	q.SetIndex(0xfffe)
	if err := q.Attach(m, Layout{Size: fuzzSize, Desc: 1 << 32, Avail: 1<<32 + avail, Used: 1<<32 + used}); err != nil {
		t.Fatal(err)
	}
	l := binary.LittleEndian
	for i := range fuzzSize {
		l.PutUint64(mem[16*i:], uint64(0x3000+i))
		l.PutUint32(mem[16*i+8:], 1)
	}
	var c Chain
	for i := range uint16(20) {
		index := 0xfffe + i
		head := index * 3 % fuzzSize
		if q.Available() {
			t.Fatal("available before the guest offers")
		}
		l.PutUint16(mem[avail+4+2*int(index%fuzzSize):], head)
		word(mem[avail:]).Store(uint32(index+1)<<16 | uint32(i&1))
		if ok, err := q.Pop(&c); !ok || err != nil || c.Head != head {
			t.Fatalf("chain %d: %v, %v", c.Head, ok, err)
		}
		q.Push(c.Head, int(i))
		if interrupt := q.Publish(); interrupt != (i&1 == 0) {
			t.Errorf("interrupt wanted: %v", interrupt)
		}
		if q.Publish() {
			t.Error("an interrupt for nothing")
		}
		e := mem[used+4+8*int(index%fuzzSize):]
		if l.Uint32(e) != uint32(head) || l.Uint32(e[4:]) != uint32(i) || uint16(word(mem[used:]).Load()>>16) != index+1 {
			t.Errorf("used entry %x, index %x", e[:8], word(mem[used:]).Load())
		}
	}
	q.WantKicks(false)
	if word(mem[used:]).Load()&usedNoNotify == 0 {
		t.Error("kicks are not turned off")
	}
}
