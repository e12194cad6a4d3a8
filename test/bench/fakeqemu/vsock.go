package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

const (
	guestCID  = 3        // MANAGER_QEMU_VSOCK_GUEST_CID's default
	guestPort = 1024     // of the one connection
	window    = 64 << 10 // what the guest takes before it has read, in bytes
	chunk     = frontend.BufferSize - frontend.HeaderSize
)

// driver is a guest's vsock driver that knows one connection at a time.
type driver struct {
	front *frontend.Frontend

	mu      sync.Mutex // of the transmit ring and all below
	changed *sync.Cond
	stream  *stream
	broken  error
}

// stream is the guest's end of a connection, by the counters of its credit
// (virtio 1.2, 5.10.6.3).
type stream struct {
	port         uint32
	open, over   bool
	sent         uint32 // by the guest
	alloc, taken uint32 // the host's
	got, told    uint32 // by the guest, and as the host knows
	ours         *os.File
}

func newDriver(socket string) (*driver, error) {
	f, err := frontend.Dial(socket)
	if err != nil {
		return nil, err
	}
	if err := f.Start(); err != nil {
		f.Close()
		return nil, err
	}
	d := &driver{front: f}
	d.changed = sync.NewCond(&d.mu)
	go d.receive() // as long as the process
	return d, nil
}

// close hangs up: the process ends, and with it the driver.
func (d *driver) close() { d.front.Conn.Close() }

// send puts a packet of s on the ring; d.mu is held.
func (d *driver) send(s *stream, op uint16, flags uint32, data []byte) error {
	s.told = s.got
	return d.front.SendPacket(frontend.Packet{
		Src: guestCID, Dst: vsock.HostCID, SrcPort: guestPort, DstPort: s.port, Size: uint32(len(data)),
		Type: 1, Op: op, Flags: flags, Alloc: window, Taken: s.got, Data: data,
	})
}

// dial connects to a port of the host.
func (d *driver) dial(port uint32) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(fds[0]), "vsock")
	defer theirs.Close()
	s := &stream{port: port, ours: os.NewFile(uintptr(fds[1]), "vsock")}
	if err := d.connect(s); err != nil {
		return nil, errors.Join(err, s.ours.Close())
	}
	go d.pump(s) // until either side hangs up
	return net.FileConn(theirs)
}

func (d *driver) connect(s *stream) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stream != nil && !d.stream.over {
		return errors.New("there is a connection already")
	}
	d.stream = s
	if err := d.send(s, frontend.OpRequest, 0, nil); err != nil {
		return err
	}
	for !s.open && !s.over && d.broken == nil {
		d.changed.Wait()
	}
	if !s.open { // one that the host has already ended is the caller's to find out
		return errors.Join(fmt.Errorf("port %d of the host refuses", s.port), d.broken)
	}
	return nil
}

// pump sends what the agent writes, within the host's credit.
func (d *driver) pump(s *stream) {
	b := make([]byte, chunk)
	for {
		n, err := s.ours.Read(b)
		d.mu.Lock()
		for data := b[:n]; len(data) > 0 && !s.over; {
			credit := int(s.alloc - (s.sent - s.taken))
			if credit <= 0 {
				d.changed.Wait()
				continue
			}
			part := data[:min(len(data), credit)]
			if d.send(s, frontend.OpData, 0, part) != nil {
				s.over = true
			}
			s.sent += uint32(len(part))
			data = data[len(part):]
		}
		if err != nil && !s.over {
			s.over = true
			_ = d.send(s, frontend.OpReset, 0, nil) // the device is gone, if it fails
		}
		over := s.over
		d.mu.Unlock()
		if over {
			_ = s.ours.Close()
			return
		}
	}
}

// receive takes every packet of the host's.
func (d *driver) receive() {
	for {
		p, err := d.front.ReceivePacket()
		if err != nil {
			if d.hungUp() {
				return
			}
			continue // nothing came for a while
		}
		d.mu.Lock()
		s := d.stream
		if s == nil || p.SrcPort != s.port || p.DstPort != guestPort {
			d.mu.Unlock()
			continue
		}
		s.alloc, s.taken = p.Alloc, p.Taken
		switch p.Op {
		case frontend.OpResponse:
			s.open = true
		case frontend.OpReset, frontend.OpShutdown:
			s.over = true
			_ = s.ours.Close() // ends the pump, too
		}
		d.changed.Broadcast()
		d.mu.Unlock()
		if p.Op == frontend.OpData {
			_, _ = s.ours.Write(p.Data) // the agent has hung up, if it fails
		}
		d.mu.Lock()
		s.got += uint32(len(p.Data))
		if s.got-s.told >= window/2 || p.Op == frontend.OpCreditRequest {
			_ = d.send(s, frontend.OpCreditUpdate, 0, nil)
		}
		d.mu.Unlock()
	}
}

// hungUp tells whether the device has gone.
func (d *driver) hungUp() bool {
	raw, err := d.front.Conn.SyscallConn()
	gone := err != nil
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			gone = err == nil && n == 0
		})
	}
	if gone = gone || err != nil; gone {
		d.mu.Lock()
		d.broken = errors.New("the device is gone")
		d.changed.Broadcast()
		d.mu.Unlock()
	}
	return gone
}
