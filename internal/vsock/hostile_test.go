package vsock_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

// brokenRing is what a guest does to its transmit queue, and what the built-in
// device says about it. The kernel's forgives those that it can make sense of.
type brokenRing struct {
	name, says string
	do         func(*frontend.Frontend)
	forgiven   bool
}

func brokenRingCases() []brokenRing {
	const base = frontend.GuestBase
	const table = 0x70000 // room for an indirect table
	type front = frontend.Frontend
	// chain puts descriptors at the head of the transmit ring's table.
	chain := func(f *front, ds ...frontend.Desc) {
		for i, d := range ds {
			f.SetDesc(f.TX.Desc, i, d)
		}
		f.TX.Offer(0, 1)
	}
	indirect := func(f *front, length uint32, ds ...frontend.Desc) {
		for i, d := range ds {
			f.SetDesc(table, i, d)
		}
		chain(f, frontend.Desc{Addr: base + table, Len: length, Flags: frontend.Indirect})
	}
	buffer := frontend.Desc{Addr: base + 0x20000, Len: 44}
	next := func(d frontend.Desc, flags, to uint16) frontend.Desc {
		d.Flags, d.Next = flags|frontend.Next, to
		return d
	}
	return []brokenRing{
		{name: "available index jumps", says: "jumped by 33", do: func(f *front) { f.TX.Offer(0, frontend.RingSize+1) }},
		{name: "available index runs backwards", says: "jumped by 65535", do: func(f *front) { f.TX.Offer(0, 0xffff) }},
		{name: "head outside the table", says: "descriptor 32 of 32", do: func(f *front) { f.TX.Offer(frontend.RingSize, 1) }},
		{name: "next outside the table", says: "descriptor 32 of 32", do: func(f *front) { chain(f, next(buffer, 0, frontend.RingSize)) }},
		{name: "chain with a loop", says: "loop", do: func(f *front) { chain(f, next(buffer, 0, 1), next(buffer, 0, 0)) }},
		{name: "chain that is its own next", says: "loop", do: func(f *front) { chain(f, next(buffer, 0, 0)) }},
		{name: "buffer before memory", says: "outside guest memory", do: func(f *front) { chain(f, frontend.Desc{Addr: base - 1, Len: 44}) }},
		{name: "buffer behind memory", says: "outside guest memory", do: func(f *front) { chain(f, frontend.Desc{Addr: base + frontend.MemSize, Len: 1}) }},
		{name: "buffer across the end of memory", says: "outside guest memory", do: func(f *front) { chain(f, frontend.Desc{Addr: base + frontend.MemSize - 43, Len: 44}) }},
		{name: "buffer whose end overflows", says: "outside guest memory", do: func(f *front) { chain(f, frontend.Desc{Addr: ^uint64(0) - 10, Len: 44}) }},
		{name: "buffer of 4 GiB", says: "more than", do: func(f *front) { chain(f, frontend.Desc{Addr: base, Len: ^uint32(0)}) }},
		{name: "chain of 32 MiB", says: "more than", do: func(f *front) {
			var ds []frontend.Desc
			for i := range uint16(frontend.RingSize) {
				ds = append(ds, next(frontend.Desc{Addr: base, Len: frontend.RegionSize}, 0, i+1))
			}
			ds[len(ds)-1].Flags = 0
			chain(f, ds...)
		}},
		{name: "readable behind writable", says: "after a writable", do: func(f *front) { chain(f, next(buffer, frontend.Write, 1), buffer) }},
		{name: "indirect table in the middle of a chain", says: "flags", forgiven: true, do: func(f *front) {
			chain(f, frontend.Desc{Addr: base + table, Len: 16, Flags: frontend.Indirect | frontend.Next, Next: 1}, buffer)
		}},
		{name: "indirect table of no size", says: "table of 0 bytes", do: func(f *front) { indirect(f, 0) }},
		{name: "indirect table of half a descriptor", says: "table of 24 bytes", do: func(f *front) { indirect(f, 24, buffer) }},
		{name: "indirect table without end", says: "table of 4294967280 bytes", do: func(f *front) { indirect(f, 0xfffffff0, buffer) }},
		{name: "indirect table outside memory", says: "outside guest memory", do: func(f *front) {
			chain(f, frontend.Desc{Addr: base + frontend.MemSize - 8, Len: 16, Flags: frontend.Indirect})
		}},
		{name: "indirect table within an indirect table", says: "inside an indirect", do: func(f *front) {
			indirect(f, 16, frontend.Desc{Addr: base + table, Len: 16, Flags: frontend.Indirect})
		}},
		{name: "indirect table with a loop", says: "loop", do: func(f *front) { indirect(f, 32, next(buffer, 0, 1), next(buffer, 0, 0)) }},
		{name: "indirect next outside its table", says: "descriptor 2 of 2", do: func(f *front) { indirect(f, 32, next(buffer, 0, 2)) }},
	}
}

// A guest that breaks the rules of a queue loses the device until it resets
// it; then all is as new.
func TestBrokenRings(t *testing.T) {
	for _, c := range brokenRingCases() {
		t.Run(c.name, func(t *testing.T) {
			r := started(t, vsock.UserConfig{})
			l := r.listen(9000)
			conn := r.connect(l, 1000, 9000)
			c.do(r.front)
			r.check(r.front.TX.Broken())
			_, err := conn.Read(make([]byte, 1))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the connection ended with %v, not %q", err, c.says)
			}
			r.restart()
			r.exchange(r.connect(l, 1000, 9000), 1000, 9000)
		})
	}
}

func TestBrokenReceiveBuffers(t *testing.T) {
	for _, c := range []struct {
		name string
		desc frontend.Desc
	}{
		{"shorter than a header", frontend.Desc{Addr: frontend.GuestBase, Len: 43, Flags: frontend.Write}},
		{"without room for data", frontend.Desc{Addr: frontend.GuestBase, Len: 44, Flags: frontend.Write}},
		{"not writable", frontend.Desc{Addr: frontend.GuestBase, Len: 4096}},
		{"outside memory", frontend.Desc{Addr: 0, Len: 4096, Flags: frontend.Write}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := connected(t, vsock.UserConfig{})
			r.check(r.front.Negotiate())
			r.check(r.front.StartDevice())
			l := r.listen(9000)
			r.front.SetDesc(r.front.RX.Desc, 0, c.desc)
			r.front.RX.Offer(0, 1)
			r.send(packet(frontend.OpRequest, 1000, 9000, "")) // its answer needs the buffer
			r.check(r.front.RX.Broken())
			r.restart()
			// The listener still has the connection that died.
			dead, err := l.Accept()
			r.check(err)
			dead.Close()
			r.exchange(r.connect(l, 1000, 9000), 1000, 9000)
		})
	}
}

// Layouts that no driver may use, but any driver may.
func TestOddLayouts(t *testing.T) {
	const base = frontend.GuestBase
	data := strings.Repeat("0123456789abcdef", 64)
	whole := packet(frontend.OpData, 1000, 9000, data).Bytes()
	// put lays pieces of the packet at offsets and returns their descriptors.
	type piece struct {
		at uint64
		n  int
	}
	put := func(f *frontend.Frontend, pieces ...piece) []frontend.Desc {
		var ds []frontend.Desc
		off := 0
		for i, p := range pieces {
			copy(f.Mem[p.at:], whole[off:off+p.n])
			off += p.n
			ds = append(ds, frontend.Desc{Addr: base + p.at, Len: uint32(p.n), Flags: frontend.Next, Next: uint16(i + 1)})
		}
		if off != len(whole) {
			panic("pieces do not make a packet")
		}
		ds[len(ds)-1].Flags = 0
		return ds
	}
	bytewise := func(n int) (ps []piece) {
		for i := range n {
			ps = append(ps, piece{uint64(0x70000 + 3*i), 1})
		}
		return append(ps, piece{0x80000, len(whole) - n})
	}
	for _, c := range []struct {
		name     string
		pieces   []piece
		indirect bool
	}{
		{name: "one buffer", pieces: []piece{{0x70000, len(whole)}}},
		{name: "header and data apart", pieces: []piece{{0x70000, 44}, {0x70101, len(whole) - 44}}},
		{name: "header split, byte by byte", pieces: bytewise(20)},
		{name: "indirect, byte by byte beyond the ring's size", pieces: bytewise(44), indirect: true},
		{name: "empty pieces", pieces: []piece{{0x70000, 0}, {0x70000, 44}, {0, 0}, {0x70100, len(whole) - 44}, {0, 0}}},
		{name: "data across two regions", pieces: []piece{{0x70000, 44}, {frontend.RegionSize - 100, len(whole) - 44}}},
		{name: "header across two regions", pieces: []piece{{frontend.RegionSize - 7, len(whole)}}},
		{name: "at the end of memory", pieces: []piece{{frontend.MemSize - uint64(len(whole)), len(whole)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := started(t, vsock.UserConfig{})
			conn := r.connect(r.listen(9000), 1000, 9000)
			ds := put(r.front, c.pieces...)
			if c.indirect {
				const table = 0x60000
				for i, d := range ds {
					r.front.SetDesc(table, i, d)
				}
				ds = []frontend.Desc{{Addr: base + table, Len: uint32(16 * len(ds)), Flags: frontend.Indirect}}
			}
			for i, d := range ds {
				r.front.SetDesc(r.front.TX.Desc, i, d)
			}
			r.front.TX.Offer(0, 1)
			_, _, err := r.front.TX.NextUsed()
			r.check(err)
			got := make([]byte, len(data))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != data {
				t.Errorf("the host read %q, %v", got, err)
			}
		})
	}
}

// Control messages that no sound QEMU sends end the session with an error that
// names what was wrong; nothing is left open.
func TestHostileControlMessages(t *testing.T) {
	word := func(v uint64) []byte { b := frontend.U64(v); return b[:] }
	region := func(count int, gpa, size, user, off uint64) []byte {
		b := frontend.Pair(uint32(count), 0)
		for range max(count, 0) {
			for _, v := range []uint64{gpa, size, user, off} {
				b = append(b, word(v)...)
			}
		}
		return b
	}
	addr := func(queue uint32, desc, used, avail uint64) []byte {
		return append(append(append(append(frontend.Pair(queue, 0), word(desc)...), word(used)...), word(avail)...), word(0)...)
	}
	memfd := func(t *testing.T, size int64, seals int) int {
		fd, err := frontend.Memfd(size, seals)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	const size = frontend.RegionSize
	const user = 0x7f0000000000
	for _, c := range []struct {
		name, says string
		request    uint32
		flags      uint32 // 0: version 1
		body       []byte
		files      func(t *testing.T) []int
	}{
		{name: "unknown request", says: "request 77: not supported", request: 77},
		{name: "wrong version", says: "flags 0x2", request: frontend.GetFeatures, flags: 2},
		{name: "a reply", says: "flags 0x5", request: frontend.GetFeatures, flags: 5},
		{name: "short body", says: "of 4 bytes, at least 8", request: frontend.SetFeatures, body: make([]byte, 4)},
		{name: "no body", says: "of 0 bytes, at least 40", request: frontend.SetVringAddr},
		{name: "long body", says: "more than 4096", request: frontend.SetConfig, body: make([]byte, 4097)},
		{name: "writing the configuration", says: "can't be written", request: frontend.SetConfig, body: make([]byte, 20)},
		{name: "features not offered", says: "not offered", request: frontend.SetFeatures, body: word(1 << 40)},
		{name: "protocol features not offered", says: "not offered", request: frontend.SetProtocolFeatures, body: word(1 << 16)},
		{name: "no such queue", says: "no queue 2", request: frontend.SetVringNum, body: frontend.Pair(2, 64)},
		{name: "no such queue to enable", says: "no queue 4294967295", request: frontend.SetVringEnable, body: frontend.Pair(^uint32(0), 1)},
		{name: "queue of no size", says: "queue size 0", request: frontend.SetVringNum, body: frontend.Pair(0, 0)},
		{name: "queue size not a power of two", says: "queue size 65 ", request: frontend.SetVringNum, body: frontend.Pair(0, 65)},
		{name: "queue too large", says: "queue size 65536", request: frontend.SetVringNum, body: frontend.Pair(0, 1<<16)},
		{name: "table outside memory", says: "outside guest memory", request: frontend.SetVringAddr, body: addr(0, 0x1000, user+0x2000, user+0x1000)},
		{name: "table across the end of its region", says: "outside guest memory", request: frontend.SetVringAddr, body: addr(0, user+size-16, user+0x2000, user+0x1000)},
		{name: "used ring across the end of its region", says: "outside guest memory", request: frontend.SetVringAddr, body: addr(0, user, user+size-4, user+0x1000)},
		{name: "available ring whose end overflows", says: "outside guest memory", request: frontend.SetVringAddr, body: addr(0, user, user+0x2000, ^uint64(3))},
		{name: "misaligned table", says: "misaligned", request: frontend.SetVringAddr, body: addr(0, user+8, user+0x2000, user+0x1000)},
		{name: "misaligned used ring", says: "misaligned", request: frontend.SetVringAddr, body: addr(0, user, user+0x2002, user+0x1000)},
		{name: "misaligned available ring", says: "misaligned", request: frontend.SetVringAddr, body: addr(0, user, user+0x2000, user+0x1002)},
		{name: "kick without eventfd", says: "without an eventfd", request: frontend.SetVringKick, body: word(0)},
		{name: "kick that polls", says: "without an eventfd", request: frontend.SetVringKick, body: word(1 << 8)},
		{
			name: "kick through an endless file", says: "not an eventfd", request: frontend.SetVringKick, body: word(0),
			files: func(t *testing.T) []int { return []int{open(t, "/dev/zero")} },
		},
		{
			name: "call through a file", says: "not an eventfd", request: frontend.SetVringCall, body: word(1),
			files: func(t *testing.T) []int { return []int{memfd(t, 4096, 0)} },
		},
		{name: "call without eventfd", says: "exactly one", request: frontend.SetVringCall, body: word(1)},
		{name: "memory without files", says: "1 regions with 0 files", request: frontend.SetMemTable, body: region(1, 0, size, user, 0)},
		{name: "more regions than bytes", says: "9 regions in 8 bytes", request: frontend.SetMemTable, body: frontend.Pair(9, 0)},
		{name: "regions beyond counting", says: "4294967295 regions", request: frontend.SetMemTable, body: frontend.Pair(^uint32(0), 0)},
		{
			name: "memory that can shrink", says: "can shrink", request: frontend.SetMemTable, body: region(1, 0, size, user, 0),
			files: func(t *testing.T) []int { return []int{memfd(t, size, 0)} },
		},
		{
			name: "memory sealed against growing only", says: "can shrink", request: frontend.SetMemTable, body: region(1, 0, size, user, 0),
			files: func(t *testing.T) []int { return []int{memfd(t, size, unix.F_SEAL_GROW)} },
		},
		{
			name: "memory that is no memory", says: "can shrink", request: frontend.SetMemTable, body: region(1, 0, size, user, 0),
			files: func(t *testing.T) []int { return []int{open(t, "/dev/zero")} },
		},
		{
			name: "region longer than its file", says: "ends at 0x100001", request: frontend.SetMemTable, body: region(1, 0, size, user, 1),
			files: func(t *testing.T) []int { return []int{memfd(t, size, unix.F_SEAL_SHRINK)} },
		},
		{
			name: "empty region", says: "impossible region", request: frontend.SetMemTable, body: region(1, 0, 0, user, 0),
			files: func(t *testing.T) []int { return []int{memfd(t, size, unix.F_SEAL_SHRINK)} },
		},
		{
			name: "region whose offset overflows", says: "impossible region", request: frontend.SetMemTable, body: region(1, 0, size, user, ^uint64(0)),
			files: func(t *testing.T) []int { return []int{memfd(t, size, unix.F_SEAL_SHRINK)} },
		},
		{
			name: "region whose address overflows", says: "impossible region", request: frontend.SetMemTable, body: region(1, ^uint64(0), size, user, 0),
			files: func(t *testing.T) []int { return []int{memfd(t, size, unix.F_SEAL_SHRINK)} },
		},
		{
			name: "new memory without the rings", says: "outside guest memory", request: frontend.SetMemTable, body: region(1, 0, 4096, 0, 0),
			files: func(t *testing.T) []int { return []int{memfd(t, 4096, unix.F_SEAL_SHRINK)} },
		},
		{
			name: "too many files", says: "more than 8 file descriptors", request: frontend.GetFeatures,
			files: func(t *testing.T) []int { f := memfd(t, 0, 0); return []int{f, f, f, f, f, f, f, f, f, f, f} },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var files []int
			if c.files != nil {
				files = c.files(t)
			}
			before := openFiles(t)
			r := started(t, vsock.UserConfig{})
			conn := r.connect(r.listen(9000), 1000, 9000)
			flags := c.flags
			if flags == 0 {
				flags = 1
			}
			r.check(r.front.Send(c.request, flags, c.body, files...))
			r.wantEnd(c.says)
			r.wantReset(conn)
			r.check(r.host.Close())
			r.front.Close()
			if after := openFiles(t); after != before {
				t.Errorf("%d files are open after the end, %d were before the start", after, before)
			}
		})
	}
	t.Run("half a message", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		_, err := r.front.Conn.Write([]byte{1, 0, 0, 0, 1})
		r.check(err)
		r.front.Conn.Close()
		r.wantEnd("unexpected EOF")
	})
	t.Run("half a body", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		_, err := r.front.Conn.Write([]byte{frontend.SetFeatures, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1})
		r.check(err)
		r.front.Conn.Close()
		r.wantEnd("unexpected EOF")
	})
	t.Run("a failure is told to a front end that asks", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		if err := r.front.Set(frontend.SetVringNum, frontend.Pair(0, 3)); !errors.Is(err, frontend.ErrRefused) {
			t.Errorf("the answer is %v", err)
		}
		r.wantEnd("queue size 3")
	})
}

func open(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func openFiles(t *testing.T) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}
