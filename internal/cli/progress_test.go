package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time       { return c.t }
func (c *clock) pass(d time.Duration) { c.t = c.t.Add(d) }
func newClock() *clock                { return &clock{time.Unix(1_000_000, 0)} }
func columns(n int) func() int        { return func() int { return n } }

func testOutput(cols int, json bool) (*output, *bytes.Buffer, *clock) {
	var b bytes.Buffer
	c := newClock()
	return &output{stderr: &b, columns: columns(cols), json: json, now: c.now}, &b, c
}

func TestBarShowsRateAndTimeLeft(t *testing.T) {
	o, b, c := testOutput(100, false)
	p := o.progress("dataset iris.csv", 100<<20)
	p.begin(0)
	for i := int64(1); i <= 50; i++ {
		c.pass(200 * time.Millisecond)
		p.set(i << 20)
	}
	lines := strings.Split(b.String(), "\r")
	last := strings.TrimSuffix(lines[len(lines)-1], "\x1b[K")
	for _, want := range []string{"dataset iris.csv [", "##", "..", "50.0 MiB of 100.0 MiB, 50%", "5.0 MiB/s", "10 s left"} {
		if !strings.Contains(last, want) {
			t.Errorf("last drawing %q lacks %q", last, want)
		}
	}
	if strings.Contains(b.String(), "\n") {
		t.Error("a bar must stay on its line")
	}
	p.finish("sent")
	if got := b.String()[strings.LastIndex(b.String(), "\r")+1:]; !strings.HasPrefix(got, "\x1b[Kdataset iris.csv: sent 50.0 MiB in 10 s") {
		t.Errorf("finished with %q", got)
	}
}

func TestBarKeepsToTheTerminal(t *testing.T) {
	for _, cols := range []int{1, 2, 9, 20, 40, 79, 80, 200} {
		o, b, c := testOutput(cols, false)
		p := o.progress("dataset "+strings.Repeat("näme", 40), 1<<40)
		p.begin(0)
		for i := int64(1); i < 40; i++ {
			c.pass(time.Second)
			p.set(i << 30)
		}
		for _, line := range strings.Split(b.String(), "\r") {
			line = strings.TrimSuffix(line, "\x1b[K")
			if n := utf8.RuneCountInString(line); n > max(cols-1, 1) {
				t.Errorf("%d columns: a line of %d: %q", cols, n, line)
			}
		}
	}
}

func TestBarIsDrawnNotTooOften(t *testing.T) {
	o, b, c := testOutput(80, false)
	p := o.progress("x", 1000)
	for i := int64(1); i <= 1000; i++ {
		c.pass(time.Millisecond)
		p.set(i)
	}
	if n := strings.Count(b.String(), "\r"); n > 10 {
		t.Errorf("%d drawings in one second", n)
	}
}

func TestPlainLinesEveryFiveSeconds(t *testing.T) {
	o, b, c := testOutput(0, false)
	p := o.progress("algorithm", 60<<20)
	p.begin(0)
	for i := int64(1); i <= 60; i++ {
		c.pass(time.Second)
		p.set(i << 20)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 12 {
		t.Fatalf("%d lines in a minute, want 12:\n%s", len(lines), b)
	}
	if want := "algorithm: 30.0 MiB of 60.0 MiB, 50%, 1.0 MiB/s, 30 s left"; lines[5] != want {
		t.Errorf("got %q, want %q", lines[5], want)
	}
	if strings.ContainsAny(b.String(), "\r\x1b") {
		t.Errorf("control characters where there is no terminal: %q", b)
	}
}

func TestResumedProgressCountsOnlyWhatMoved(t *testing.T) {
	o, b, c := testOutput(0, false)
	p := o.progress("dataset x", 100<<20)
	p.begin(90 << 20)
	c.pass(5 * time.Second)
	p.set(95 << 20)
	c.pass(5 * time.Second)
	p.set(100 << 20)
	p.finish("sent")
	got := b.String()
	for _, want := range []string{"95%, 1.0 MiB/s, 5.0 s left", "sent 100.0 MiB in 10 s (90.0 MiB of it before), 1.0 MiB/s"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

func TestScriptsSeeNoProgress(t *testing.T) {
	for _, cols := range []int{0, 80} {
		o, b, c := testOutput(cols, true)
		p := o.progress("x", 100)
		p.begin(1)
		c.pass(time.Minute)
		p.set(50)
		p.note("something")
		o.hint("something")
		p.stop()
		p.finish("sent")
		if b.Len() > 0 {
			t.Errorf("with --json and %d columns: %q", cols, b)
		}
	}
}

func TestHostileNamesDoNotReachTheTerminal(t *testing.T) {
	o, b, _ := testOutput(80, false)
	p := o.progress("dataset \x1b]0;owned\x07\u202e", 10)
	p.note("it says %s", "\x1b[2J\r\n")
	p.finish("sent")
	if strings.ContainsAny(b.String(), "\x1b\x07\r\u202e") {
		t.Errorf("%q", b)
	}
}
