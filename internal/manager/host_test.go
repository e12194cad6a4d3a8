package manager

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// freePort returns a port that nobody listened on a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestForwardPorts(t *testing.T) {
	for _, c := range []struct {
		f    Forward
		want []uint16
	}{
		{Forward{}, nil},
		{Forward{Preferred: 7020}, []uint16{7020}},
		{Forward{First: 6100, Last: 6102}, []uint16{6100, 6101, 6102}},
		{Forward{Preferred: 6101, First: 6100, Last: 6102}, []uint16{6101, 6100, 6102}},
		{Forward{First: 65534, Last: 65535}, []uint16{65534, 65535}},
	} {
		got := c.f.ports()
		if len(got) != len(c.want) {
			t.Errorf("%+v: %v", c.f, got)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%+v: %v", c.f, got)
			}
		}
	}
}

// TestHeldPort: nobody gets a held port but who binds as QEMU does, and once
// that one listens nobody else does.
func TestHeldPort(t *testing.T) {
	port := freePort(t)
	h, err := holdPort(netip.AddrPortFrom(loopback, port), true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	addr := netip.AddrPortFrom(loopback, port)
	if stolen, err := holdPort(addr, true); err == nil {
		stolen.Close()
		t.Error("the port is given away twice")
	}
	if c, err := net.Dial("tcp", addr.String()); err == nil {
		c.Close()
		t.Error("something answers on a port that is only held")
	}
	// net.Listen sets SO_REUSEADDR, as QEMU does.
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatalf("QEMU could not listen on the held port: %v", err)
	}
	defer l.Close()
	if again, err := holdPort(addr, false); err == nil {
		again.Close()
		t.Error("a port that is listened on counts as free")
	}
}

func TestChoosePort(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := uint16(busy.Addr().(*net.TCPAddr).Port)
	f := Forward{Addr: loopback, Preferred: taken}
	if h, err := f.choose(nil); err == nil || !strings.Contains(err.Error(), "the only one") {
		h.Close()
		t.Errorf("%v", err)
	}
	free := freePort(t)
	f.First, f.Last = free, free
	h, err := f.choose(nil)
	if err != nil || h.port != free {
		t.Fatalf("%v, %v", h, err)
	}
	defer h.Close()
	if again, err := f.choose(map[uint16]bool{free: true}); err == nil || !strings.Contains(err.Error(), "are in use") {
		again.Close()
		t.Errorf("%v", err)
	}
	// An address that this host does not have is no matter of ports.
	if h, err := (Forward{Addr: netip.MustParseAddr("192.0.2.1"), Preferred: free}).choose(nil); err == nil || !strings.Contains(err.Error(), unix.EADDRNOTAVAIL.Error()) {
		h.Close()
		t.Errorf("%v", err)
	}
}

// TestPortWhoseConnectionsFade: the only port can be used again at once after a
// VM that closed its connections itself.
func TestPortWhoseConnectionsFade(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close() // closing first leaves TIME_WAIT on this side
	one := make([]byte, 1)
	_, _ = client.Read(one)
	client.Close()
	l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	h, err := Forward{Addr: loopback, Preferred: port}.choose(nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
}
