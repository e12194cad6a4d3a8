package sdnotify

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTellsSystemd(t *testing.T) {
	dir, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{filepath.Join(dir, "s"), "@cocos-test-" + filepath.Base(dir)} {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		t.Setenv("NOTIFY_SOCKET", name)
		ready, err := Take()
		if err != nil {
			t.Fatal(err)
		}
		if _, left := os.LookupEnv("NOTIFY_SOCKET"); left {
			t.Error("children would get the socket")
		}
		if err := ready(); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		n, err := conn.Read(b)
		if err != nil || string(b[:n]) != "READY=1" {
			t.Errorf("%s got %q, %v", name, b[:n], err)
		}
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	ready, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	if err := ready(); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", "vsock:2:1")
	if _, err := Take(); err == nil || !strings.Contains(err.Error(), "NOTIFY_SOCKET") {
		t.Errorf("a socket of another kind: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "/nonexistent/socket")
	if ready, err = Take(); err != nil {
		t.Fatal(err)
	}
	if err := ready(); err == nil || !strings.Contains(err.Error(), "NOTIFY_SOCKET") {
		t.Errorf("nobody listens: %v", err)
	}
}
