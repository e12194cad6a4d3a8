package vsock_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

// kernelPatience bounds what the kernel's end has to do, in an emulated
// machine as a rule.
const kernelPatience = time.Minute

// The kernel's device gets from a hostile guest what the built-in one gets. How
// it answers is the kernel's matter; but a bystander's connection must go on,
// no end on the host may hang, and after a reset all must work.
func TestKernelHostileGuest(t *testing.T) {
	host := kernelHost(t)
	if host == nil {
		return
	}
	front, err := frontend.StartVhost(host.Device())
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	defer front.Stop()
	l, err := host.Listen(9000)
	if err != nil {
		t.Fatal(err)
	}
	r := &kernelRig{T: t, cid: uint64(host.GuestCID()), front: front, l: l, port: vsock.PortFor(host.GuestCID(), 9000)}
	bystander := r.connect(1)
	next := uint32(1000)
	for i, c := range hostilePacketCases(r.cid, 0, r.port) {
		t.Run("packets/"+c.name, func(t *testing.T) {
			r := r.in(t)
			next++
			victim := r.connect(next)
			for i, b := range hostilePacketCases(r.cid, next, r.port)[i].packets {
				front.TX.Post(b)
				if i%(frontend.RingSize/2) == 0 {
					r.sync()
				}
			}
			r.sync()
			r.exchange(bystander, 1)
			r.end(victim, next)
		})
	}
	for _, c := range brokenRingCases() {
		t.Run("rings/"+c.name, func(t *testing.T) {
			r := r.in(t)
			r.check(front.Restart())
			next++
			victim := r.connect(next)
			c.do(front.Frontend)
			if c.forgiven {
				r.sync()
			} else {
				r.check(front.TX.Broken())
			}
			r.check(front.Restart())
			r.exchange(bystander, 1)
			r.end(victim, next)
		})
	}
}

// kernelRig is the kernel's device with a fake guest.
type kernelRig struct {
	*testing.T
	cid   uint64
	front *frontend.Vhost
	l     net.Listener
	port  uint32 // the listener's, as the guest dials it
}

func (r *kernelRig) in(t *testing.T) *kernelRig {
	s := *r
	s.T = t
	return &s
}

func (r *kernelRig) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *kernelRig) send(op uint16, guest uint32, data string) {
	r.Helper()
	p := packet(op, guest, r.port, data)
	p.Src = r.cid
	r.front.TX.Post(p.Bytes())
}

// receive waits for a packet of an operation to a port of the guest; what else
// the kernel has to say is passed over.
func (r *kernelRig) receive(op uint16, guest uint32) frontend.Packet {
	r.Helper()
	for {
		p, err := r.front.ReceivePacket()
		r.check(err)
		if p.Src != vsock.HostCID || p.Dst != r.cid {
			r.Fatalf("the device sent %v", p)
		}
		if p.Op == op && p.DstPort == guest {
			return p
		}
	}
}

// sync waits until the device has taken all that was sent: it works its queue
// in order. The bystander on port 1 asks it.
func (r *kernelRig) sync() {
	r.Helper()
	r.send(frontend.OpCreditRequest, 1, "")
	r.receive(frontend.OpCreditUpdate, 1)
}

func (r *kernelRig) connect(guest uint32) net.Conn {
	r.Helper()
	r.send(frontend.OpRequest, guest, "")
	r.receive(frontend.OpResponse, guest)
	c, err := r.l.Accept()
	r.check(err)
	return c
}

// exchange shows that a connection works in both directions.
func (r *kernelRig) exchange(c net.Conn, guest uint32) {
	r.Helper()
	r.check(c.SetDeadline(time.Now().Add(kernelPatience)))
	r.send(frontend.OpData, guest, "ping")
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
		r.Fatalf("the host read %q, %v", b, err)
	}
	if _, err := c.Write([]byte("pong")); err != nil {
		r.Fatal(err)
	}
	if p := r.receive(frontend.OpData, guest); string(p.Data) != "pong" {
		r.Fatalf("the guest received %v %q", p, p.Data)
	}
}

// end resets a connection, which its end on the host must see.
func (r *kernelRig) end(c net.Conn, guest uint32) {
	r.Helper()
	r.send(frontend.OpReset, guest, "")
	r.check(c.SetDeadline(time.Now().Add(kernelPatience)))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		r.Errorf("the connection did not end: %v", err)
	}
	c.Close()
}
