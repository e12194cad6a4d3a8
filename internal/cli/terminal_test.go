package cli

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a pseudo-terminal of 72 columns.
func openTerminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 72}); err != nil {
		t.Fatal(err)
	}
	return screen, tty
}

func TestProgressOnATerminal(t *testing.T) {
	screen, tty := openTerminal(t)
	var seen bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { seen.ReadFrom(screen) }) //nolint:errcheck // EIO when the other end is closed
	u := newUser(t)
	f := &fakeAgent{want: noise(8 << 20)}
	f.serve(t)
	var mu sync.Mutex
	at := time.Unix(0, 0)
	var stdout bytes.Buffer
	code := run(t.Context(), Env{
		Args:   u.flags(f, "data", u.file("d", f.want), "--name", "d"),
		Stdout: &stdout, Stderr: tty, Getenv: func(string) string { return "" },
		Columns: func() int { return width(tty, "xterm") },
	}, timing{func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(200 * time.Millisecond)
		return at
	}, sleep})
	tty.Close()
	reading.Wait()
	got := seen.String()
	if code != ExitOK || stdout.Len() > 0 {
		t.Fatalf("exit status %d, stdout %q, terminal:\n%s", code, &stdout, got)
	}
	for _, want := range []string{"dataset d [", "#", "4.0 MiB of 8.0 MiB, 50%", "MiB/s", " left", "8.0 MiB of 8.0 MiB, 100%"} {
		if !strings.Contains(got, want) {
			t.Errorf("the terminal never showed %q:\n%q", want, got)
		}
	}
	for _, line := range strings.FieldsFunc(got, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if line = strings.ReplaceAll(line, "\x1b[K", ""); utf8.RuneCountInString(line) > 71 {
			t.Errorf("a line of %d on a terminal of 72 columns: %q", utf8.RuneCountInString(line), line)
		}
	}
	// What stays on the screen.
	last := got[strings.LastIndex(got, "\x1b[K")+len("\x1b[K"):]
	if !strings.HasPrefix(last, "dataset d: sent 8.0 MiB in ") || !strings.HasSuffix(last, "verified the dataset d\r\n") {
		t.Errorf("left on the screen: %q", last)
	}
}

func TestWidth(t *testing.T) {
	_, tty := openTerminal(t)
	defer tty.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, tt := range map[string]struct {
		f    *os.File
		kind string
		want int
	}{
		"a terminal":                   {tty, "xterm", 72},
		"a terminal that can't redraw": {tty, "dumb", 0},
		"a pipe":                       {w, "xterm", 0},
	} {
		if got := width(tt.f, tt.kind); got != tt.want {
			t.Errorf("%s: %d columns, want %d", name, got, tt.want)
		}
	}
}
