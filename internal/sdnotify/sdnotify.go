// Package sdnotify tells systemd that a program is ready (sd_notify(3)).
package sdnotify

import (
	"fmt"
	"net"
	"os"
	"strings"
)

// Take returns the function that tells systemd that this process is ready.
// Without NOTIFY_SOCKET it does nothing. The variable goes, so that no child
// speaks for its parent.
func Take() (ready func() error, err error) {
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
			return fmt.Errorf("telling systemd that this process is ready (NOTIFY_SOCKET): %w", err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("READY=1")); err != nil {
			return fmt.Errorf("telling systemd that this process is ready (NOTIFY_SOCKET): %w", err)
		}
		return nil
	}, nil
}
