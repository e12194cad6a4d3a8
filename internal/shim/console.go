package shim

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"unicode/utf8"
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
			if s := strings.TrimSpace(clean(string(part), tailBytes)); s != "" {
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

// lineLog writes what QEMU says itself into the shim's log, and to the Manager,
// line by line.
type lineLog struct {
	tail  *tail
	log   *slog.Logger
	tell  func(line string)
	part  []byte
	lines int
}

func (w *lineLog) Write(p []byte) (int, error) {
	_, _ = w.tail.Write(p)
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

func (w *lineLog) say(line string) {
	w.lines++
	switch {
	case w.lines < maxErrorLines:
		line = clean(line, maxMessage)
		w.log.Warn("QEMU says", "line", line)
		w.tell(line)
	case w.lines == maxErrorLines:
		w.log.Warn("QEMU says too much; the rest is not logged")
	}
}

// clean returns s as harmless text of at most n bytes: valid UTF-8, no terminal
// sequences, no control characters; a tab or line break becomes a space.
func clean(s string, n int) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == 0x1b {
			i += escapeLength(s[i:])
			continue
		}
		i += size
		switch {
		case r == '\t', r == '\n':
			r = ' '
		case r < 0x20, r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			// Control characters, line separators, and what turns the direction
			// of text around.
			continue
		}
		if out.Len()+utf8.RuneLen(r) > n {
			break
		}
		out.WriteRune(r)
	}
	return out.String()
}

// escapeLength is the length of the terminal sequence (ECMA-48) s begins with.
func escapeLength(s string) int {
	if len(s) < 2 || s[1] != '[' {
		return min(2, len(s))
	}
	for i := 2; i < len(s); i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
	}
	return len(s)
}
