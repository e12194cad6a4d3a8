package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// tlsHold takes connections, each in a goroutine that waits for a byte, until it
// is killed. It writes its address to standard output.
func tlsHold([]string) error {
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = c.Read(make([]byte, 1))
		}()
	}
}

// bareTLSMemory is what n connections cost tlsHold, in KiB each.
func bareTLSMemory(ctx context.Context, l *lab, n int) (each float64, err error) {
	cmd := exec.CommandContext(ctx, l.self, "tls-hold")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting the reference: %w", err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the reference: %w", err)
	}
	before, err := watchMemory(cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	var group errgroup.Group
	group.SetLimit(32)
	for i := range conns {
		group.Go(func() (err error) {
			conns[i], err = tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", strings.TrimSpace(line), &tls.Config{InsecureSkipVerify: true})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("the reference: %w", err)
	}
	if err := sleep(ctx, quietTime); err != nil {
		return 0, err
	}
	after, err := watchMemory(cmd.Process.Pid)
	return float64(after.idle-before.idle) / float64(n), err
}
