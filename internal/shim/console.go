package shim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/telemetry"
)

const (
	// maxConsole bounds console.log, in bytes; half of it survives when it is
	// full.
	maxConsole = 2 << 20
	// tailBytes is what is kept for the report of a VM's end.
	tailBytes    = 8 << 10
	consoleLines = 20
	errorLines   = 5
	// maxErrorLines bounds what of QEMU's own output goes into the log: a guest
	// may provoke it.
	maxErrorLines = 200
	// consoleDelay bounds how long the console may go on after QEMU's end.
	consoleDelay = 2 * time.Second
)

// tail keeps the last bytes of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-tailBytes):]...)
	if len(t.b) > 2*tailBytes {
		t.b = append(t.b[:0], t.b[len(t.b)-tailBytes:]...)
	}
	return len(p), nil
}

// lastLines returns the last n lines that are not empty, cleaned.
func (t *tail) lastLines(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.b[max(0, len(t.b)-tailBytes):]
	var lines []string
	for line := range bytes.Lines(b) {
		// A carriage return alone starts a line anew on a terminal.
		for part := range bytes.SplitSeq(line, []byte("\r")) {
			if s := strings.TrimSpace(telemetry.Clean(string(part), tailBytes)); s != "" {
				lines = append(lines, s)
			}
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// console is the guest's serial console: a bounded file and its tail. It takes
// everything: a full disk must not hold up QEMU.
type console struct {
	tail
	f    *os.File
	size int64
}

func newConsole(name string) (*console, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the console's file: %w", err)
	}
	return &console{f: f}, nil
}

func (c *console) Write(p []byte) (int, error) {
	_, _ = c.tail.Write(p)
	if c.size+int64(len(p)) > maxConsole {
		c.halve()
	}
	n, _ := c.f.WriteAt(p, c.size)
	c.size += int64(n)
	return len(p), nil
}

// halve keeps the newer half of a full file.
func (c *console) halve() {
	b := make([]byte, min(c.size, maxConsole/2))
	n, err := c.f.ReadAt(b, c.size-int64(len(b)))
	if err != nil && err != io.EOF {
		n = 0
	}
	note := fmt.Appendf(nil, "[the console's first %d bytes are not kept]\n", c.size-int64(n))
	if err := c.f.Truncate(0); err != nil {
		return
	}
	m, _ := c.f.WriteAt(append(note, b[:n]...), 0)
	c.size = int64(m)
}

func (c *console) Close() error { return c.f.Close() }

// serve copies what QEMU writes to l into c. The returned function, to be called
// when QEMU has ended, waits until all is copied that the guest has said.
func (c *console) serve(l net.Listener) (wait func()) {
	var copied sync.WaitGroup
	conns := make(chan net.Conn, 1)
	copied.Go(func() {
		defer close(conns)
		conn, err := l.Accept()
		if err != nil {
			return // QEMU has ended before it came this far
		}
		conns <- conn
		_, _ = io.Copy(c, conn) // an error is QEMU's end, too
		_ = conn.Close()
	})
	return func() {
		_ = l.Close()
		if conn, ok := <-conns; ok {
			// Only what a process of QEMU's that is left holds open lasts longer.
			_ = conn.SetReadDeadline(time.Now().Add(consoleDelay))
		}
		copied.Wait()
	}
}

// lineLog writes what QEMU says itself into the shim's log, and to the Manager,
// line by line. What is no fault stays out of tail.
type lineLog struct {
	tail  *tail
	log   *slog.Logger
	tell  func(level slog.Level, line string)
	part  []byte
	lines int
}

func (w *lineLog) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		line, rest, ok := bytes.Cut(w.part, []byte("\n"))
		if !ok {
			break
		}
		w.say(string(line))
		w.part = rest
	}
	if len(w.part) > maxMessage {
		w.say(string(w.part))
		w.part = nil
	}
	return len(p), nil
}

// flush says what did not end in a line break.
func (w *lineLog) flush() {
	if len(w.part) > 0 {
		w.say(string(w.part))
		w.part = nil
	}
}

// redirected begins the line in which QEMU names the terminal of its monitor.
const redirected = "char device redirected to "

func (w *lineLog) say(line string) {
	level := slog.LevelInfo
	if !strings.HasPrefix(line, redirected) {
		level = slog.LevelWarn
		_, _ = w.tail.Write([]byte(line + "\n"))
	}
	w.lines++
	switch {
	case w.lines < maxErrorLines:
		line = telemetry.Clean(line, maxMessage)
		w.log.Log(context.Background(), level, "QEMU says", "line", line)
		w.tell(level, line)
	case w.lines == maxErrorLines:
		w.log.Warn("QEMU says too much; the rest is not logged")
	}
}
