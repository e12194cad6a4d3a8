package device_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock/device"
	"github.com/ultravioletrs/cocos/internal/vsock/virtq"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

const guestCID = 7

func newDevice(log io.Writer, forward func(*device.Conn, uint32)) *device.Device {
	return device.New(guestCID, forward, slog.New(slog.NewTextHandler(log, nil)))
}

func packet(op uint16, guest, host uint32, data string) frontend.Packet {
	return frontend.Packet{
		Src: guestCID, Dst: 2, SrcPort: guest, DstPort: host, Size: uint32(len(data)), Type: 1, Op: op, Alloc: 1 << 18, Data: []byte(data),
	}
}

func receive(d *device.Device, p frontend.Packet) { d.Receive(virtq.Buffers{p.Bytes()}) }

// next is the device's next packet for the guest.
func next(t *testing.T, d *device.Device) (p frontend.Packet, ok bool) {
	t.Helper()
	buf := make([]byte, 4096)
	n := d.Transmit(virtq.Buffers{buf})
	if n == 0 {
		return p, false
	}
	p, err := frontend.Parse(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	return p, true
}

func connect(t *testing.T, d *device.Device) net.Conn {
	t.Helper()
	l, err := d.Listen(9000)
	if err != nil {
		t.Fatal(err)
	}
	receive(d, packet(frontend.OpRequest, 1000, 9000, ""))
	if p, ok := next(t, d); !ok || p.Op != frontend.OpResponse {
		t.Fatalf("the device sent %v", p)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A guest that never confirms a close does not keep the connection for ever.
func TestCloseTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t.Output(), nil)
		defer d.Close()
		c := connect(t, d)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if p, ok := next(t, d); !ok || p.Op != frontend.OpShutdown {
			t.Fatalf("the device sent %v", p)
		}
		time.Sleep(8*time.Second - time.Nanosecond)
		synctest.Wait()
		if p, ok := next(t, d); ok {
			t.Fatalf("the device sent %v too early", p)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if p, ok := next(t, d); !ok || p.Op != frontend.OpReset || p.DstPort != 1000 {
			t.Fatalf("the device sent %v", p)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t.Output(), nil)
		defer d.Close()
		c := connect(t, d)
		defer c.Close()
		start := time.Now()
		if err := c.SetDeadline(start.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Read: %v after %v", err, time.Since(start))
		}
		var ne net.Error
		if n, err := c.Write([]byte{1}); n != 0 || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("Write: %d, %v", n, err)
		}
		// A deadline that is moved while a call waits counts.
		if err := c.SetDeadline(start.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second)
			c.SetReadDeadline(time.Now().Add(time.Second))
		}()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("Read: %v after %v", err, time.Since(start))
		}
		// A Write that went half way says so.
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		go func() {
			synctest.Wait()
			if p, _ := next(t, d); len(p.Data) != 4096-frontend.HeaderSize {
				t.Errorf("the device sent %v", p)
			}
		}()
		if n, err := c.Write(make([]byte, 10000)); n != 4096-frontend.HeaderSize || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %d, %v", n, err)
		}
	})
}

// The counters of credit go round at 4 GiB, in either direction, and a lie about
// them is one on the other side too.
func TestCountersWrap(t *testing.T) {
	const window, step = 256 << 10, 4000
	for _, before := range []uint32{1, step / 2, window, window + 1} {
		d := newDevice(t.Output(), nil)
		defer d.Close()
		c := connect(t, d)
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(frontend.Patience)); err != nil {
			t.Fatal(err)
		}
		device.Skip(c, -before)
		// More than a window from the guest, which fills it and has it emptied.
		data := strings.Repeat("x", step)
		for sent := 0; sent < 4*window; {
			for credit := window; credit >= step; credit -= step {
				p := packet(frontend.OpData, 1000, 9000, data)
				p.Taken = -before
				receive(d, p)
				sent += step
				if _, err := io.ReadFull(c, make([]byte, step)); err != nil {
					t.Fatalf("%d before the wrap, after %d bytes: %v", before, sent, err)
				}
			}
			if p, ok := next(t, d); !ok || p.Op != frontend.OpCreditUpdate || p.Taken != uint32(sent)-before {
				t.Fatalf("%d before the wrap, after %d bytes the device sent %v", before, sent, p)
			}
		}
		// And to the guest.
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 4*window))
			wrote <- err
		}()
		for got := uint32(0); got < 4*window; {
			p, ok := next(t, d)
			if !ok {
				select {
				case err := <-wrote:
					t.Fatalf("%d before the wrap: Write ended with %v after %d bytes", before, err, got)
				default:
					runtime.Gosched() // the writer has not begun
				}
				continue
			}
			u := packet(frontend.OpCreditUpdate, 1000, 9000, "")
			for _, taken := range []uint32{got, got + p.Size} { // nothing of it yet, then all
				u.Taken = taken - before
				receive(d, u)
			}
			got += p.Size
		}
		lie := packet(frontend.OpCreditUpdate, 1000, 9000, "")
		lie.Taken = 4*window - before + 1
		receive(d, lie)
		if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%d before the wrap: writing after a lie: %v", before, err)
		}
	}
}

// Concurrent writers do not mix their bytes, and connections take turns.
func TestWritersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t.Output(), nil)
		defer d.Close()
		c := connect(t, d)
		defer c.Close()
		for _, b := range []byte{1, 2} {
			go c.Write(bytes.Repeat([]byte{b}, 10000))
		}
		var got []byte
		for {
			synctest.Wait()
			p, ok := next(t, d)
			if !ok {
				break
			}
			got = append(got, p.Data...)
		}
		if len(got) != 20000 || bytes.Count(got[:10000], got[:1]) != 10000 || bytes.Count(got[10000:], got[10000:10001]) != 10000 {
			t.Errorf("%d bytes, mixed", len(got))
		}
		other, err := d.Listen(9001)
		if err != nil {
			t.Fatal(err)
		}
		receive(d, packet(frontend.OpRequest, 1001, 9001, ""))
		next(t, d)
		c2, err := other.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c2.Close()
		go c.Write(make([]byte, 20000))
		go c2.Write(make([]byte, 20000))
		synctest.Wait()
		var turns []uint32
		for range 4 {
			p, _ := next(t, d)
			turns = append(turns, p.SrcPort)
		}
		if turns[0] == turns[1] || turns[0] != turns[2] || turns[1] != turns[3] {
			t.Errorf("connections in turn: %v", turns)
		}
	})
}

// A guest that takes no packets can't make those pile up that wait for it,
// however many connections it opens and resets.
func TestGuestThatTakesNothing(t *testing.T) {
	d := newDevice(t.Output(), nil)
	defer d.Close()
	l, err := d.Listen(9000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(10000) {
		receive(d, packet(frontend.OpRequest, 1000+i, 9000, ""))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		receive(d, packet(frontend.OpReset, 1000+i, 9000, ""))
		c.Close()
	}
	if h, ok := d.Held(); !ok || h != (device.Held{}) {
		t.Errorf("the device holds %+v", h)
	}
	// Nor can it by dialing a port that refuses, or a connection that we close.
	for i := range uint32(10000) {
		receive(d, packet(frontend.OpRequest, 1000+i, 9001, ""))
	}
	if h, ok := d.Held(); !ok || h.Strays != 256 || h.Queued != 0 {
		t.Errorf("the device holds %+v", h)
	}
}

// What a hostile guest makes the device log is bounded; the rest is counted.
func TestLogIsBounded(t *testing.T) {
	var log bytes.Buffer
	d := newDevice(&log, nil)
	for range 1000 {
		d.Receive(virtq.Buffers{{1, 2, 3}})
	}
	d.Close()
	if n := strings.Count(log.String(), "\n"); n != 21 || !strings.Contains(log.String(), "count=1000") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

// FuzzPackets feeds a device packets of a guest that knows the protocol's
// words but not its grammar. Whatever comes, the device neither panics nor
// exceeds its bounds, and what it sends is well-formed.
func FuzzPackets(f *testing.F) {
	f.Add([]byte{0x10, 0, 0, 0, 0x50, 0, 100, 0, 0x40, 3, 0, 0, 0x30, 0, 0, 0})
	f.Add([]byte{0x10, 0, 0, 0, 0x10, 0, 0, 0, 0x70, 0, 0, 1, 0x51, 0, 255, 9})
	f.Fuzz(func(t *testing.T, script []byte) {
		var forwarded []*device.Conn
		d := newDevice(io.Discard, func(c *device.Conn, port uint32) {
			if port%2 == 0 {
				c.Reset()
				return
			}
			if err := c.Accept(); err != nil {
				t.Errorf("Accept: %v", err)
			}
			forwarded = append(forwarded, c)
		})
		if _, err := d.Listen(0); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 512)
		for ; len(script) >= 4; script = script[4:] {
			// Four bytes are one packet: operation and ports, flags, size, count.
			p := packet(uint16(script[0]>>4), uint32(script[0]&3), uint32(script[0]>>2&3), strings.Repeat("x", int(script[2])))
			p.Flags, p.Taken = uint32(script[1]&7), uint32(script[3]&0x3f)
			if script[1]&0x80 != 0 {
				p.Size += uint32(script[3])
			}
			if script[1]&0x40 != 0 {
				p.Alloc = uint32(script[3])
			}
			receive(d, p)
			if h, ok := d.Held(); !ok {
				t.Fatalf("the device holds %+v", h)
			}
			if script[3]&0x80 != 0 && len(forwarded) > 0 {
				c := forwarded[0]
				forwarded = forwarded[1:]
				c.SetDeadline(time.Unix(1, 0))
				c.Read(make([]byte, 100))
				c.Close()
			}
			if script[3]&0x40 != 0 {
				for n := d.Transmit(virtq.Buffers{buf}); n > 0; n = d.Transmit(virtq.Buffers{buf}) {
					q, err := frontend.Parse(buf[:n])
					if err != nil || q.Src != 2 || q.Dst != guestCID || int(q.Size) != len(q.Data) || q.Op < 1 || q.Op > 7 {
						t.Fatalf("the device sent %v, %v", q, err)
					}
				}
			}
		}
		d.Close()
		if d.Transmit(virtq.Buffers{buf}) != 0 {
			t.Error("a device that has ended sends")
		}
	})
}
