package vsock_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

// hostilePackets is what a guest does to an open connection between its port
// and the host's.
type hostilePackets struct {
	name    string
	packets [][]byte
	reset   bool // the built-in device resets the connection, and the guest is told
	alive   bool // the connection goes on
}

// hostilePacketCases are packets that no driver sends: each is right in all
// but one thing.
func hostilePacketCases(cid uint64, guest, host uint32) []hostilePackets {
	edit := func(op uint16, data string, f func(*frontend.Packet)) []byte {
		p := packet(op, guest, host, data)
		p.Src = cid
		f(&p)
		return p.Bytes()
	}
	nothing := func(*frontend.Packet) {}
	big := strings.Repeat("x", 4000)
	return []hostilePackets{
		{name: "shorter than a header", packets: [][]byte{edit(frontend.OpData, "", nothing)[:43]}, alive: true},
		{name: "empty", packets: [][]byte{{}}, alive: true},
		{name: "from another CID", packets: [][]byte{edit(frontend.OpReset, "", func(p *frontend.Packet) { p.Src++ })}, alive: true},
		{name: "from a CID that differs in its upper half", packets: [][]byte{edit(frontend.OpReset, "", func(p *frontend.Packet) { p.Src |= 1 << 32 })}, alive: true},
		{name: "from the host's CID", packets: [][]byte{edit(frontend.OpReset, "", func(p *frontend.Packet) { p.Src = 2 })}, alive: true},
		{name: "to another CID", packets: [][]byte{edit(frontend.OpReset, "", func(p *frontend.Packet) { p.Dst = 3 })}, alive: true},
		{name: "reset of a connection that is not", packets: [][]byte{edit(frontend.OpReset, "", func(p *frontend.Packet) { p.SrcPort = 2 })}, alive: true},
		{name: "operation 0", packets: [][]byte{edit(0, "", nothing)}, reset: true},
		{name: "operation 8", packets: [][]byte{edit(8, "", nothing)}, reset: true},
		{name: "operation 65535", packets: [][]byte{edit(0xffff, "", nothing)}, reset: true},
		{name: "second request", packets: [][]byte{edit(frontend.OpRequest, "", nothing)}, reset: true},
		{name: "response that nobody asked for", packets: [][]byte{edit(frontend.OpResponse, "", nothing)}, reset: true},
		{name: "data that is shorter than its header says", packets: [][]byte{edit(frontend.OpData, "abc", func(p *frontend.Packet) { p.Size = 4 })}, reset: true},
		{name: "data of 4 GiB", packets: [][]byte{edit(frontend.OpData, "abc", func(p *frontend.Packet) { p.Size = ^uint32(0) })}, reset: true},
		{name: "data of one byte more than the credit", packets: [][]byte{edit(frontend.OpData, "abc", func(p *frontend.Packet) { p.Size = 256<<10 + 1 })}, reset: true},
		{name: "data after its end", packets: [][]byte{
			edit(frontend.OpShutdown, "", func(p *frontend.Packet) { p.Flags = frontend.ShutSend }), edit(frontend.OpData, "abc", nothing),
		}, reset: true},
		{name: "more taken than sent", packets: [][]byte{edit(frontend.OpCreditUpdate, "", func(p *frontend.Packet) { p.Taken = 1 })}, reset: true},
		{name: "far more taken than sent", packets: [][]byte{edit(frontend.OpCreditUpdate, "", func(p *frontend.Packet) { p.Taken = 1<<31 - 1 })}, reset: true},
		{name: "data beyond the credit", packets: func() (ps [][]byte) {
			for range 256<<10/4000 + 1 {
				ps = append(ps, edit(frontend.OpData, big, nothing))
			}
			return ps
		}(), reset: true},
		{name: "a buffer of no bytes", packets: [][]byte{edit(frontend.OpCreditUpdate, "", func(p *frontend.Packet) { p.Alloc = 0 }), edit(frontend.OpCreditUpdate, "", nothing)}, alive: true},
		{name: "shutdown of nothing", packets: [][]byte{edit(frontend.OpShutdown, "", nothing)}, alive: true},
		{name: "shutdown with unknown flags", packets: [][]byte{edit(frontend.OpShutdown, "", func(p *frontend.Packet) { p.Flags = ^uint32(3) })}, alive: true},
		{name: "data of no bytes", packets: [][]byte{edit(frontend.OpData, "", nothing)}, alive: true},
	}
}

// The connection that hostile packets belong to may go, a bystander never does.
func TestHostilePackets(t *testing.T) {
	const guest, host = 1000, 9000
	for _, c := range hostilePacketCases(guestCID, guest, host) {
		t.Run(c.name, func(t *testing.T) {
			r := started(t, vsock.UserConfig{})
			l := r.listen(host)
			bystander := r.connect(l, 1, host)
			conn := r.connect(l, guest, host)
			for _, p := range c.packets {
				r.check(r.front.SendBytes(p))
			}
			if c.reset {
				if p := r.receive(frontend.OpReset); p.SrcPort != host || p.DstPort != guest {
					t.Errorf("the device sent %v", p)
				}
				if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the connection ended with %v", err)
				}
				if _, err := conn.Write([]byte{1}); err == nil {
					t.Error("a connection that was reset can be written")
				}
			}
			if c.alive {
				r.exchange(conn, guest, host)
			}
			r.exchange(bystander, 1, host)
		})
	}
}

// Packets that belong to no connection are answered with a reset, and only
// requests make one.
func TestStrays(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	for _, op := range []uint16{frontend.OpRequest, frontend.OpResponse, frontend.OpShutdown, frontend.OpData, frontend.OpCreditUpdate, frontend.OpCreditRequest, 0, 99} {
		r.send(packet(op, 1000, 9001, "")) // nobody listens there
		if p := r.receive(frontend.OpReset); p.SrcPort != 9001 || p.DstPort != 1000 || p.Type != 1 {
			t.Errorf("operation %d: the device sent %v", op, p)
		}
	}
	p := packet(frontend.OpRequest, 1000, 9000, "")
	p.Type = 2
	r.send(p)
	if p := r.receive(frontend.OpReset); p.Type != 2 {
		t.Errorf("a packet of type 2: the device sent %v", p)
	}
	r.exchange(r.connect(l, 1000, 9000), 1000, 9000)
}

// dial dials the guest while the test plays it.
func (r *rig) dial(ctx context.Context, port uint32) <-chan dialed {
	done := make(chan dialed, 1)
	go func() {
		c, err := r.host.Dial(ctx, port)
		done <- dialed{c, err}
	}()
	return done
}

type dialed struct {
	net.Conn
	error
}

func TestDial(t *testing.T) {
	answer := func(r *rig, op uint16) (guest, host uint32) {
		p := r.receive(frontend.OpRequest)
		r.send(packet(op, p.DstPort, p.SrcPort, ""))
		return p.DstPort, p.SrcPort
	}
	t.Run("accepted", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		d := r.dial(t.Context(), 5)
		guest, host := answer(r, frontend.OpResponse)
		c := <-d
		r.check(c.error)
		defer c.Close()
		if guest != 5 {
			t.Errorf("the guest was asked for port %d", guest)
		}
		r.exchange(c, guest, host)
	})
	t.Run("refused", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		d := r.dial(t.Context(), 5)
		answer(r, frontend.OpReset)
		if c := <-d; !errors.Is(c.error, syscall.ECONNREFUSED) {
			t.Errorf("dialing: %v", c.error)
		}
	})
	t.Run("answered with data", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		d := r.dial(t.Context(), 5)
		answer(r, frontend.OpData)
		r.receive(frontend.OpReset)
		if c := <-d; !errors.Is(c.error, syscall.ECONNRESET) {
			t.Errorf("dialing: %v", c.error)
		}
	})
	t.Run("the context ends", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		d := r.dial(ctx, 5)
		req := r.receive(frontend.OpRequest)
		cancel()
		if c := <-d; !errors.Is(c.error, context.Canceled) {
			t.Errorf("dialing: %v", c.error)
		}
		if p := r.receive(frontend.OpReset); p.SrcPort != req.SrcPort || p.DstPort != 5 {
			t.Errorf("the device sent %v", p)
		}
		// An answer that comes late is refused.
		r.send(packet(frontend.OpResponse, 5, req.SrcPort, ""))
		r.receive(frontend.OpReset)
	})
	t.Run("a guest that is not up yet", func(t *testing.T) {
		r := connected(t, vsock.UserConfig{})
		d := r.dial(t.Context(), 5)
		r.check(r.front.Start())
		answer(r, frontend.OpResponse)
		c := <-d
		r.check(c.error)
		c.Close()
	})
	t.Run("QEMU hangs up", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		d := r.dial(t.Context(), 5)
		r.receive(frontend.OpRequest)
		r.front.Conn.Close()
		if c := <-d; !errors.Is(c.error, syscall.ECONNRESET) {
			t.Errorf("dialing: %v", c.error)
		}
	})
}

// The two ends of a stream, one after the other and at once.
func TestEnds(t *testing.T) {
	shut := func(flags uint32) frontend.Packet {
		p := packet(frontend.OpShutdown, 1000, 9000, "")
		p.Flags = flags
		return p
	}
	setup := func(t *testing.T) (*rig, vsock.CloseWriter) {
		r := started(t, vsock.UserConfig{})
		return r, r.connect(r.listen(9000), 1000, 9000)
	}
	t.Run("the guest sends its end, then data goes to it", func(t *testing.T) {
		r, c := setup(t)
		r.send(packet(frontend.OpData, 1000, 9000, "last words"))
		r.send(shut(frontend.ShutSend))
		if b, err := io.ReadAll(c); err != nil || string(b) != "last words" {
			t.Errorf("read %q, %v", b, err)
		}
		if _, err := c.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		r.receive(frontend.OpData)
		r.check(c.Close())
		if p := r.receive(frontend.OpShutdown); p.Flags != frontend.ShutSend|frontend.ShutRecv {
			t.Errorf("Close sent %v", p)
		}
		// The guest confirms: the port is free again.
		r.send(packet(frontend.OpReset, 1000, 9000, ""))
		r.send(packet(frontend.OpRequest, 1000, 9000, ""))
		r.receive(frontend.OpResponse)
	})
	t.Run("the guest closes with data on the way", func(t *testing.T) {
		r, c := setup(t)
		r.send(packet(frontend.OpData, 1000, 9000, "last words"))
		r.send(shut(frontend.ShutSend | frontend.ShutRecv))
		r.receive(frontend.OpReset) // lets the guest forget it
		if b, err := io.ReadAll(c); err != nil || string(b) != "last words" {
			t.Errorf("read %q, %v", b, err)
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing: %v", err)
		}
		// Its port may be used again although our end is not closed yet.
		r.send(packet(frontend.OpRequest, 1000, 9000, ""))
		r.receive(frontend.OpResponse)
	})
	t.Run("the guest resets with data on the way", func(t *testing.T) {
		r, c := setup(t)
		r.send(packet(frontend.OpData, 1000, 9000, "last"))
		r.send(packet(frontend.OpReset, 1000, 9000, ""))
		if b, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) || string(b) != "last" {
			t.Errorf("read %q, %v", b, err)
		}
	})
	t.Run("the guest receives no more", func(t *testing.T) {
		r, c := setup(t)
		r.send(shut(frontend.ShutRecv))
		if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing: %v", err)
		}
		r.send(packet(frontend.OpData, 1000, 9000, "x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("reading: %v", err)
		}
	})
	t.Run("our end", func(t *testing.T) {
		r, c := setup(t)
		r.check(c.CloseWrite())
		r.check(c.CloseWrite()) // once more changes nothing
		if p := r.receive(frontend.OpShutdown); p.Flags != frontend.ShutSend {
			t.Errorf("CloseWrite sent %v", p)
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing: %v", err)
		}
		r.send(packet(frontend.OpData, 1000, 9000, "x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("reading: %v", err)
		}
		r.send(shut(frontend.ShutSend))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("reading: %v", err)
		}
	})
	t.Run("we close with something unread", func(t *testing.T) {
		r, c := setup(t)
		r.send(packet(frontend.OpData, 1000, 9000, "x"))
		r.check(c.Close())
		r.receive(frontend.OpReset)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("reading: %v", err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closing again: %v", err)
		}
	})
	t.Run("the guest uses the port again before it confirms", func(t *testing.T) {
		r, c := setup(t)
		r.check(c.Close())
		r.receive(frontend.OpShutdown)
		r.send(packet(frontend.OpRequest, 1000, 9000, ""))
		r.receive(frontend.OpResponse)
	})
	t.Run("a listener closes with connections that nobody accepted", func(t *testing.T) {
		r := started(t, vsock.UserConfig{})
		l := r.listen(9000)
		r.send(packet(frontend.OpRequest, 1000, 9000, ""))
		r.receive(frontend.OpResponse)
		r.check(l.Close())
		r.receive(frontend.OpReset)
		r.send(packet(frontend.OpRequest, 1001, 9000, ""))
		r.receive(frontend.OpReset)
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	})
}

// Credit, in both directions.
func TestCredit(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	req := packet(frontend.OpRequest, 1000, 9000, "")
	req.Alloc = 10
	r.send(req)
	r.receive(frontend.OpResponse)
	c, err := l.Accept()
	r.check(err)
	defer c.Close()
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(bytes.Repeat([]byte{1}, 25))
		wrote <- err
	}()
	taken := uint32(0)
	for _, want := range []int{10, 10, 5} {
		p := r.receive(frontend.OpData)
		if len(p.Data) != want {
			t.Fatalf("the device sent %d bytes, not %d", len(p.Data), want)
		}
		taken += uint32(want)
		u := packet(frontend.OpCreditUpdate, 1000, 9000, "")
		u.Alloc, u.Taken = 10, taken
		r.send(u)
		// Linux may send an older count behind: it takes nothing back.
		u.Taken -= uint32(want)
		r.send(u)
	}
	r.check(<-wrote)
	go func() {
		_, err := c.Write(bytes.Repeat([]byte{1}, 10))
		wrote <- err
	}()
	if p := r.receive(frontend.OpData); len(p.Data) != 10 {
		t.Errorf("the device sent %d bytes, not 10: an older count took credit back", len(p.Data))
	}
	r.check(<-wrote)

	// The device tells what its reader took, when it is asked and by itself.
	r.send(packet(frontend.OpData, 1000, 9000, "abc"))
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	ask := packet(frontend.OpCreditRequest, 1000, 9000, "")
	ask.Taken = taken
	r.send(ask)
	if p := r.receive(frontend.OpCreditUpdate); p.Taken != 2 || p.Alloc != 256<<10 {
		t.Errorf("the device sent %v", p)
	}
	const window = 256 << 10
	d := packet(frontend.OpData, 1000, 9000, strings.Repeat("x", 4000))
	for range window/4000 - 1 {
		r.send(d)
	}
	if _, err := io.CopyN(io.Discard, c, window/2); err != nil {
		t.Fatal(err)
	}
	if p := r.receive(frontend.OpCreditUpdate); p.Taken < window/4 {
		t.Errorf("the device sent %v", p)
	}
}

func TestDeadlinesOfListener(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	d := l.(interface{ SetDeadline(time.Time) error })
	for _, at := range []time.Time{time.Unix(1, 0), time.Now().Add(20 * time.Millisecond)} {
		r.check(d.SetDeadline(at))
		var ne net.Error
		if _, err := l.Accept(); !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("Accept: %v", err)
		}
	}
	r.check(d.SetDeadline(time.Time{}))
	r.connect(l, 1000, 9000)
	if _, err := r.host.Listen(9000); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening twice: %v", err)
	}
}
