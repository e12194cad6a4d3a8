package main

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asNobody does what an ordinary user may: root reads every file. The thread
// ends with its goroutine, and with it what it was made.
func asNobody(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			_ = unix.Setfsuid(65534)
		}
		do()
	}()
	<-done
}

// TestUnreadableCertificates: a start with files that this user may not read, or
// that are none, fails and names the variable and the file.
func TestUnreadableCertificates(t *testing.T) {
	dir := t.TempDir()
	cert, key := pairOf(t, dir, "good", time.Now().Add(time.Hour))
	closed := put(t, dir, "closed.pem", "")
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	for folder := dir; len(folder) > len(os.TempDir()); folder = folder[:strings.LastIndexByte(folder, '/')] {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		s    settings
		says []string
	}{
		"readable":           {settings{serverCAs: cert, clientCert: cert, clientKey: key}, nil},
		"authorities":        {settings{serverCAs: closed}, []string{"MANAGER_GRPC_SERVER_CA_CERTS", closed, "permission denied"}},
		"certificate":        {settings{clientCert: closed, clientKey: key}, []string{"MANAGER_GRPC_CLIENT_CERT", closed, "permission denied"}},
		"key":                {settings{clientCert: cert, clientKey: closed}, []string{"MANAGER_GRPC_CLIENT_KEY", closed, "permission denied"}},
		"authorities folder": {settings{serverCAs: dir}, []string{"MANAGER_GRPC_SERVER_CA_CERTS", dir}},
		"certificate folder": {settings{clientCert: dir, clientKey: key}, []string{"MANAGER_GRPC_CLIENT_CERT", dir}},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			asNobody(func() { _, err = tlsConfig(c.s) })
			if (err == nil) != (c.says == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %q", err, want)
				}
			}
		})
	}
}
