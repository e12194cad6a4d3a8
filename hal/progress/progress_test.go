package progress

import (
	"bytes"
	"testing"
	"time"
)

// clock moves only when a test says so.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) forward(d time.Duration) { c.t = c.t.Add(d) }

func TestPlainBarWritesLinesNowAndThen(t *testing.T) {
	var b bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	bar := New(&b, false, c.now).Bar("downloading", 100e6)
	for range 40 {
		c.forward(100 * time.Millisecond)
		bar.Add(1e6)
	}
	bar.Add(60e6)
	bar.Done()
	const want = "  downloading: 30.0 MB of 100.0 MB, 10.0 MB/s, 30%, 7.0 s left\n" +
		"  downloading: 100.0 MB in 4.0 s, 25.0 MB/s\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestTerminalBarDrawsOverItself(t *testing.T) {
	var b bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	log := New(&b, true, c.now)
	bar := log.Bar("downloading", 200)
	c.forward(time.Second)
	bar.Add(100)
	bar.Add(50) // too soon after the last drawing
	log.Printf("a message")
	c.forward(time.Second)
	bar.Add(50)
	bar.Done()
	const want = "\r\x1b[K  downloading: 100 B of 200 B, 100 B/s, 50%, 1.0 s left" +
		"\r\x1b[Ka message\n" +
		"\r\x1b[K  downloading: 200 B of 200 B, 100 B/s, 100%" +
		"\r\x1b[K  downloading: 200 B in 2.0 s, 100 B/s\n"
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}

func TestStage(t *testing.T) {
	var b bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	done := New(&b, false, c.now).Stage("packing %s", "it")
	c.forward(75 * time.Second)
	done()
	if want := "packing it ...\npacking it: done in 1 min 15 s\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "2 kB", 12_345_678: "12.3 MB", 1_240_000_000: "1.24 GB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}
