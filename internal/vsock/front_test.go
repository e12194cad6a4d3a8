package vsock_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

// guestCID is of the fake guest.
const guestCID = 7

// rig is a device with a fake QEMU and guest.
type rig struct {
	*testing.T
	host  *vsock.UserHost
	front *frontend.Frontend
}

func newHost(t *testing.T, cfg vsock.UserConfig) *vsock.UserHost {
	t.Helper()
	cfg.GuestCID = guestCID
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	host, err := vsock.NewUserHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.Close()
		// The function of a timer that has just fired may be on its way out.
		stacks := leaked()
		for end := time.Now().Add(10 * time.Second); stacks != "" && time.Now().Before(end); stacks = leaked() {
			time.Sleep(time.Millisecond)
		}
		if stacks != "" {
			t.Errorf("Close left goroutines:\n%s", stacks)
		}
	})
	return host
}

// connected has a front end that has not said anything yet.
func connected(t *testing.T, cfg vsock.UserConfig) *rig {
	t.Helper()
	host := newHost(t, cfg)
	front, err := frontend.FromFile(host.QEMUFile())
	if err != nil {
		t.Fatal(err)
	}
	host.QEMUFile().Close()
	t.Cleanup(front.Close)
	return &rig{t, host, front}
}

// started has one whose driver is up.
func started(t *testing.T, cfg vsock.UserConfig) *rig {
	t.Helper()
	r := connected(t, cfg)
	r.check(r.front.Start())
	return r
}

// leaked is the stacks of goroutines of the packages under test.
func leaked() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		for _, f := range []string{"vsock/vhostuser.(", "vsock/device.(", "internal/vsock.(*UserHost)"} {
			if strings.Contains(g, f) && !strings.Contains(g, "vsock_test.leaked") {
				left = append(left, g)
				break
			}
		}
	}
	return strings.Join(left, "\n\n")
}

func (r *rig) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) send(p frontend.Packet) {
	r.Helper()
	r.check(r.front.SendPacket(p))
}

// receive wants a packet of the given operation.
func (r *rig) receive(op uint16) frontend.Packet {
	r.Helper()
	p, err := r.front.ReceivePacket()
	r.check(err)
	if p.Op != op || p.Src != vsock.HostCID || p.Dst != guestCID {
		r.Fatalf("the device sent %v, not operation %d", p, op)
	}
	return p
}

// packet is one from the guest's port to the host's, right in every field.
func packet(op uint16, guest, host uint32, data string) frontend.Packet {
	return frontend.Packet{
		Src: guestCID, Dst: vsock.HostCID, SrcPort: guest, DstPort: host,
		Size: uint32(len(data)), Type: 1, Op: op, Alloc: 1 << 18, Data: []byte(data),
	}
}

// connect makes a connection from the guest's port.
func (r *rig) connect(l net.Listener, guest, host uint32) vsock.CloseWriter {
	r.Helper()
	r.send(packet(frontend.OpRequest, guest, host, ""))
	if p := r.receive(frontend.OpResponse); p.SrcPort != host || p.DstPort != guest {
		r.Fatalf("the device answered with %v", p)
	}
	c, err := l.Accept()
	r.check(err)
	r.Cleanup(func() { c.Close() })
	r.check(c.SetDeadline(time.Now().Add(frontend.Patience)))
	return c.(vsock.CloseWriter)
}

func (r *rig) listen(port uint32) net.Listener {
	r.Helper()
	l, err := r.host.Listen(port)
	r.check(err)
	return l
}

// exchange shows that a connection of the guest works in both directions.
func (r *rig) exchange(c net.Conn, guest, host uint32) {
	r.Helper()
	r.send(packet(frontend.OpData, guest, host, "ping"))
	b := make([]byte, 8)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != "ping" {
		r.Fatalf("the host read %q, %v", b[:n], err)
	}
	if _, err := c.Write([]byte("pong")); err != nil {
		r.Fatal(err)
	}
	if p := r.receive(frontend.OpData); !bytes.Equal(p.Data, []byte("pong")) || p.DstPort != guest {
		r.Fatalf("the guest received %v %q", p, p.Data)
	}
}

// restart resets the guest: stopped rings, zeroed, started again.
func (r *rig) restart() {
	r.Helper()
	r.check(r.front.StopDevice())
	r.front.RX.Zero()
	r.front.TX.Zero()
	r.check(r.front.StartDevice())
	r.check(r.front.FillRX())
}

// ends wants a read of the connection to end with a reset.
func (r *rig) wantReset(c net.Conn) {
	r.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		r.Errorf("reading gave %d bytes and %v, not a reset", n, err)
	}
	if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.ECONNRESET) {
		r.Errorf("writing gave %v, not a reset", err)
	}
}

// ended wants the device to have ended, with an error that says text (or none).
func (r *rig) wantEnd(text string) {
	r.Helper()
	select {
	case <-r.host.Done():
	case <-time.After(frontend.Patience):
		r.Fatal("the device goes on")
	}
	if err := r.host.Err(); text == "" && err != nil || text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
		r.Errorf("the device ended with %v, not %q", err, text)
	}
}

func TestFrontEnd(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	c := r.connect(l, 1000, 9000)
	r.exchange(c, 1000, 9000)
	if got, want := fmt.Sprint(c.LocalAddr(), c.RemoteAddr()), "host(2):9000 vm(7):1000"; got != want {
		t.Errorf("addresses %s, not %s", got, want)
	}
	// By the number that a guest's DialHost uses it is the same port.
	mapped := vsock.PortFor(guestCID, 9000)
	r.exchange(r.connect(l, 1001, mapped), 1001, mapped)

	cfg, err := r.front.Get(frontend.GetConfig, append(append(frontend.Pair(0, 8), 0, 0, 0, 0), make([]byte, 8)...))
	if err != nil || !bytes.Equal(cfg[12:], []byte{guestCID, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("configuration space %x, %v", cfg, err)
	}
	if b, err := r.front.Get(frontend.GetConfig, append(append(frontend.Pair(4, 8), 0, 0, 0, 0), make([]byte, 8)...)); err != nil || len(b) != 0 {
		t.Errorf("reading beyond the configuration space gave %x, %v", b, err)
	}
	r.front.Conn.Close()
	r.wantEnd("")
	r.wantReset(c)
	if _, err := l.Accept(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Accept after the end: %v", err)
	}
	if _, err := r.host.Listen(1); err == nil {
		t.Error("Listen after the end succeeds")
	}
	if _, err := r.host.Dial(t.Context(), 1); err == nil {
		t.Error("Dial after the end succeeds")
	}
}

func itoa(v uint32) string { return fmt.Sprint(v) }
