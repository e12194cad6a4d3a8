package vsock_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

func TestPauseAndResume(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	c := r.connect(l, 1000, 9000)
	r.exchange(c, 1000, 9000)
	for range 3 {
		r.check(r.front.StopDevice())
		wrote := make(chan error, 1)
		go func() { // while the guest stands
			_, err := c.Write([]byte("late"))
			wrote <- err
		}()
		r.check(r.front.StartDevice())
		if p := r.receive(frontend.OpData); string(p.Data) != "late" {
			t.Errorf("the guest received %q", p.Data)
		}
		r.check(<-wrote)
		r.exchange(c, 1000, 9000)
	}
}

func TestReset(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	before := mappings(t)
	for range 3 {
		c := r.connect(l, 1000, 9000)
		r.exchange(c, 1000, 9000)
		r.send(packet(frontend.OpRequest, 1001, 9000, "")) // not accepted before the reset
		r.receive(frontend.OpResponse)
		d := r.dial(t.Context(), 5)
		r.receive(frontend.OpRequest)
		r.restart()
		r.wantReset(c)
		dead, err := l.Accept()
		r.check(err)
		r.wantReset(dead)
		dead.Close()
		if c := <-d; !errors.Is(c.error, syscall.ECONNRESET) {
			t.Errorf("dialing across a reset: %v", c.error)
		}
	}
	if after := mappings(t); after != before {
		t.Errorf("guest memory is mapped %d times after three resets, %d times before", after, before)
	}
	t.Run("by RESET_OWNER", func(t *testing.T) {
		c := r.connect(l, 1000, 9000)
		r.check(r.front.Set(frontend.ResetOwner, nil))
		r.wantReset(c)
		r.restart()
		r.exchange(r.connect(l, 1000, 9000), 1000, 9000)
	})
}

// mappings counts those of guest memory in this process.
func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "memfd:guest")
}

// A guest that posts no receive buffers is still heard.
func TestTransmitGoesOnWithoutReceiveBuffers(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	c := r.connect(r.listen(9000), 1000, 9000)
	wrote := make(chan error, 1)
	go func() { // takes all buffers there are, and waits
		_, err := c.Write(make([]byte, frontend.RingSize*frontend.BufferSize))
		wrote <- err
	}()
	got := 0
	for range frontend.RingSize {
		p, err := r.front.TakePacket()
		r.check(err)
		got += len(p.Data)
	}
	for i := range uint32(2000) { // each of them wants an answer that can't go out
		r.send(packet(frontend.OpShutdown, 5000+i, 9999, ""))
	}
	r.send(packet(frontend.OpCreditRequest, 1000, 9000, ""))
	r.send(packet(frontend.OpData, 1000, 9000, "heard"))
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "heard" {
		t.Fatalf("the host read %q, %v", b, err)
	}
	// With buffers again everything goes on; of the answers to strangers only a
	// bounded number was kept.
	r.check(r.front.FillRX())
	resets := 0
	for got < frontend.RingSize*frontend.BufferSize {
		p, err := r.front.ReceivePacket()
		r.check(err)
		switch p.Op {
		case frontend.OpReset:
			resets++
		case frontend.OpData:
			got += len(p.Data)
		}
	}
	r.check(<-wrote)
	if resets == 0 || resets > 256 {
		t.Errorf("%d resets were kept", resets)
	}
}

// The number of connections is bounded, and all of them come back.
func TestManyConnections(t *testing.T) {
	const most = 256
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	for range 2 {
		var conns []net.Conn
		for i := range uint32(most) {
			conns = append(conns, r.connect(l, 1000+i, 9000))
		}
		r.send(packet(frontend.OpRequest, 1000+most, 9000, ""))
		r.receive(frontend.OpReset)
		if _, err := r.host.Dial(t.Context(), 5); err == nil || !strings.Contains(err.Error(), "too many connections") {
			t.Errorf("dialing: %v", err)
		}
		// Those that the guest resets count until the host has let go of them too.
		for i := range uint32(most) {
			r.send(packet(frontend.OpData, 1000+i, 9000, "unread"))
			r.send(packet(frontend.OpReset, 1000+i, 9000, ""))
		}
		r.send(packet(frontend.OpRequest, 1000+most, 9000, ""))
		r.receive(frontend.OpReset)
		for _, c := range conns {
			c.Close()
		}
	}
	r.exchange(r.connect(l, 1000, 9000), 1000, 9000)
}

func TestConnectionsThatNobodyAccepts(t *testing.T) {
	r := started(t, vsock.UserConfig{})
	l := r.listen(9000)
	for i := range uint32(128) {
		r.send(packet(frontend.OpRequest, 1000+i, 9000, ""))
		r.receive(frontend.OpResponse)
	}
	r.send(packet(frontend.OpRequest, 5000, 9000, ""))
	r.receive(frontend.OpReset)
	c, err := l.Accept()
	r.check(err)
	c.Close()
	r.receive(frontend.OpShutdown)
	r.send(packet(frontend.OpRequest, 5000, 9000, ""))
	r.receive(frontend.OpResponse)
}

func TestCloseEndsEverything(t *testing.T) {
	r := started(t, vsock.UserConfig{BaseSocket: filepath.Join(shortDir(t), "vsock.sock")})
	l := r.listen(9000)
	c := r.connect(l, 1000, 9000)
	d := r.dial(t.Context(), 5)
	r.receive(frontend.OpRequest)
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	r.check(r.host.Close()) // the cleanup looks for goroutines that it left
	r.wantReset(c)
	if c := <-d; c.error == nil {
		t.Error("Dial succeeds after Close")
	}
	if err := <-accepted; err == nil {
		t.Error("Accept succeeds after Close")
	}
	if err := r.host.Err(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the device ended with %v", err)
	}
	t.Run("before QEMU connects", func(t *testing.T) {
		dir := shortDir(t)
		h := newHost(t, vsock.UserConfig{QEMUSocket: filepath.Join(dir, "vhost.sock")})
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
			t.Errorf("left behind: %v, %v", es, err)
		}
	})
}

func TestUserConfig(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(dir, "busy.sock")
	l, err := net.Listen("unix", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		name, says string
		cfg        vsock.UserConfig
	}{
		{"the host's CID", "guest CID 2", vsock.UserConfig{GuestCID: 2, Log: log}},
		{"any CID", "guest CID 4294967295", vsock.UserConfig{GuestCID: ^uint32(0), Log: log}},
		{"no log", "UserConfig.Log", vsock.UserConfig{}},
		{"a path that is too long", "more than the 107", vsock.UserConfig{QEMUSocket: filepath.Join(dir, strings.Repeat("x", 107)), Log: log}},
		{"a folder that is not there", "no such file", vsock.UserConfig{QEMUSocket: filepath.Join(dir, "nowhere", "s"), Log: log}},
		{"a path that is a file", "not a socket", vsock.UserConfig{QEMUSocket: file, Log: log}},
		{"a path that is in use", "in use", vsock.UserConfig{QEMUSocket: busy, Log: log}},
		{"a base path that is in use", "in use", vsock.UserConfig{BaseSocket: busy, Log: log}},
	} {
		h, err := vsock.NewUserHost(c.cfg)
		if err == nil {
			h.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file in the way now holds %q, %v", b, err)
	}
}

// The socket of a process that was killed is replaced, and only one QEMU gets
// in.
func TestQEMUSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "vhost.sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	host := newHost(t, vsock.UserConfig{QEMUSocket: path})
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", fi.Mode(), err)
	}
	front, err := frontend.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	r := &rig{t, host, front}
	r.check(front.Start())
	r.exchange(r.connect(r.listen(9000), 1000, 9000), 1000, 9000)
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("a second QEMU can connect")
	}
}

// Other processes take part through unix sockets.
func TestBridge(t *testing.T) {
	setup := func(t *testing.T) (*rig, string) {
		base := filepath.Join(shortDir(t), "vsock.sock")
		return started(t, vsock.UserConfig{BaseSocket: base}), base
	}
	dialBase := func(t *testing.T, base, line string) *net.UnixConn {
		c, err := net.Dial("unix", base)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	// guestDials connects the guest to a process that listens on a port's socket.
	guestDials := func(t *testing.T, r *rig) *net.UnixConn {
		l, err := net.Listen("unix", r.host.PortSocket(9000))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r.send(packet(frontend.OpRequest, 1000, 9000, ""))
		c, err := l.Accept()
		r.check(err)
		t.Cleanup(func() { c.Close() })
		r.receive(frontend.OpResponse)
		return c.(*net.UnixConn)
	}
	t.Run("process to guest", func(t *testing.T) {
		r, base := setup(t)
		c := dialBase(t, base, "CONNECT 5\nat once")
		req := r.receive(frontend.OpRequest)
		r.send(packet(frontend.OpResponse, 5, req.SrcPort, ""))
		if p := r.receive(frontend.OpData); string(p.Data) != "at once" {
			t.Errorf("the guest received %q", p.Data)
		}
		r.send(packet(frontend.OpData, 5, req.SrcPort, "answer"))
		want := []byte("OK " + itoa(req.SrcPort) + "\nanswer")
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the process read %q, %v", got, err)
		}
	})
	t.Run("process to a guest's port that refuses", func(t *testing.T) {
		r, base := setup(t)
		c := dialBase(t, base, "CONNECT 5\n")
		req := r.receive(frontend.OpRequest)
		r.send(packet(frontend.OpReset, 5, req.SrcPort, ""))
		if b, err := io.ReadAll(c); err != nil || string(b) != "ERROR connection refused\n" {
			t.Errorf("the process read %q, %v", b, err)
		}
	})
	for _, line := range []string{"CONNECT\n", "CONNECT 4294967296\n", "CONNECT -1\n", "connect 5\n", "\n", "CONNECT 5 and a line that never ends"} {
		t.Run("line "+itoa(uint32(len(line))), func(t *testing.T) {
			_, base := setup(t)
			c := dialBase(t, base, line)
			b, err := io.ReadAll(c)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(string(b), "expected CONNECT <port>") {
				t.Errorf("the process read %q, %v", b, err)
			}
		})
	}
	t.Run("guest to process, and both half closes", func(t *testing.T) {
		r, _ := setup(t)
		c := guestDials(t, r)
		r.exchange(c, 1000, 9000)
		end := packet(frontend.OpShutdown, 1000, 9000, "")
		end.Flags = frontend.ShutSend
		r.send(end)
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("the process read %d bytes, %v", n, err)
		}
		if _, err := c.Write([]byte("after")); err != nil {
			t.Fatal(err)
		}
		if p := r.receive(frontend.OpData); string(p.Data) != "after" {
			t.Errorf("the guest received %q", p.Data)
		}
		r.check(c.CloseWrite())
		if p := r.receive(frontend.OpShutdown); p.Flags&frontend.ShutSend == 0 {
			t.Errorf("the guest received %v", p)
		}
	})
	t.Run("guest to a port without process", func(t *testing.T) {
		r, _ := setup(t)
		r.send(packet(frontend.OpRequest, 1000, 9000, ""))
		r.receive(frontend.OpReset)
	})
	t.Run("the guest resets", func(t *testing.T) {
		r, _ := setup(t)
		c := guestDials(t, r)
		r.send(packet(frontend.OpReset, 1000, 9000, ""))
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the process read: %v", err)
		}
	})
	t.Run("a process that goes without reading all", func(t *testing.T) {
		r, _ := setup(t)
		c := guestDials(t, r)
		r.send(packet(frontend.OpData, 1000, 9000, "unread"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // it is there
			t.Fatal(err)
		}
		r.check(c.Close())
		r.receive(frontend.OpReset)
	})
	t.Run("a process that half closes, then goes, while the guest is silent", func(t *testing.T) {
		r, _ := setup(t)
		c := guestDials(t, r)
		r.check(c.CloseWrite())
		r.receive(frontend.OpShutdown)
		r.check(c.Close())
		r.receive(frontend.OpReset)
	})
	t.Run("the host ends", func(t *testing.T) {
		r, base := setup(t)
		c := guestDials(t, r)
		d := dialBase(t, base, "CONN") // half a line
		r.check(r.host.Close())
		for _, c := range []net.Conn{c, d} {
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the process read: %v", err)
			}
		}
		if _, err := os.Stat(base); !os.IsNotExist(err) {
			t.Errorf("the base socket is still there: %v", err)
		}
	})
}
