package main

import (
	"fmt"
	"net"
	"os"
	"strings"
)

// takeNotify returns the function that tells systemd that the Manager is ready
// (sd_notify(3)): VMs of earlier Managers were found and operators are served.
// Without NOTIFY_SOCKET it does nothing. The variable goes, so that no shim
// speaks for the Manager.
func takeNotify() (ready func() error, err error) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return func() error { return nil }, nil
	}
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "@") {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q is not a socket of systemd's; expected a path or an abstract name", name)
	}
	return func() error {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			return fmt.Errorf("telling systemd that the Manager is ready (NOTIFY_SOCKET): %w", err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("READY=1")); err != nil {
			return fmt.Errorf("telling systemd that the Manager is ready (NOTIFY_SOCKET): %w", err)
		}
		return nil
	}, nil
}
