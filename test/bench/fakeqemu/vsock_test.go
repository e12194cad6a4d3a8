package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
)

// patience is a generous deadline for what must happen.
const patience = time.Minute

// rig is the product's vsock device with the driver at its other end.
func rig(t *testing.T) (*vsock.UserHost, *driver) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fakeqemu") // short: unix sockets are made in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "vhost.sock")
	host, err := vsock.NewUserHost(vsock.UserConfig{GuestCID: guestCID, QEMUSocket: socket, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	d, err := newDriver(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return host, d
}

// Megabytes pass both ways at once, far beyond either side's credit, and a
// second connection works after the first.
func TestBothWays(t *testing.T) {
	host, d := rig(t)
	l, err := host.Listen(9000)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 3<<20+7)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		failed := make(chan error, 3)
		go func() {
			c, err := l.Accept()
			if err != nil {
				failed <- err
				return
			}
			defer c.Close()
			_, err = io.CopyN(c, c, int64(len(data))) // an echo
			failed <- err
			_, _ = c.Read(make([]byte, 1)) // until the guest hangs up
		}()
		c, err := d.dial(9000)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		go func() { _, err := c.Write(data); failed <- err }()
		got := make([]byte, len(data))
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Error("other bytes came back")
		}
		for range 2 {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		await(t, d)
	}
}

// await waits until the driver knows that its connection is over.
func await(t *testing.T, d *driver) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		over := d.stream.over
		d.mu.Unlock()
		if over {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection does not end")
		}
	}
}

func TestRefusedPort(t *testing.T) {
	_, d := rig(t)
	if c, err := d.dial(9001); err == nil {
		_ = c.Close()
		t.Error("a port on which nobody listens took a connection")
	}
}

func TestHostHangsUp(t *testing.T) {
	host, d := rig(t)
	l, err := host.Listen(9000)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
		}
	}()
	c, err := d.dial(9000)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var late net.Error
	if _, err := io.Copy(io.Discard, c); errors.As(err, &late) && late.Timeout() {
		t.Error("the guest does not hear of it")
	}
}
