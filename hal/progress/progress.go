// Package progress tells a person what a long job does and how long it took.
//
// A Log prints one line when a stage begins and one when it ends. A Bar shows
// bytes: on a terminal one line that is drawn over, with rate and remaining
// time; elsewhere (a pipe, a CI log) a plain line every few seconds, so that
// logs stay short and silence never lasts. Everything goes to one writer under
// one lock, so stages, bars and messages of several goroutines don't mix.
// There are no goroutines here: bars are drawn by whoever adds bytes.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	drawEvery  = 100 * time.Millisecond // between two drawings on a terminal
	plainEvery = 3 * time.Second        // between two lines elsewhere
)

// Log writes stages, messages and bars to one writer. It is safe for
// concurrent use.
type Log struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	now      func() time.Time
	drawn    bool // a bar stands on the current terminal line
}

// New returns a Log that writes to w. terminal says whether w is one; now is
// the clock (time.Now outside tests).
func New(w io.Writer, terminal bool, now func() time.Time) *Log {
	return &Log{w: w, terminal: terminal, now: now}
}

// Printf writes one line of its own.
func (l *Log) Printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line(fmt.Sprintf(format, args...))
}

// Stage announces a stage and returns the function that ends it, which says
// how long it took.
func (l *Log) Stage(format string, args ...any) (done func()) {
	name := fmt.Sprintf(format, args...)
	start := l.now()
	l.Printf("%s ...", name)
	return func() { l.Printf("%s: done in %s", name, Duration(l.now().Sub(start))) }
}

func (l *Log) line(s string) {
	if l.drawn {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.drawn = false
	}
	fmt.Fprintln(l.w, s)
}

// Bar counts the bytes of one job.
type Bar struct {
	l           *Log
	what        string
	total, done int64
	start, last time.Time
}

// Bar starts a bar for total bytes.
func (l *Log) Bar(what string, total int64) *Bar {
	now := l.now()
	return &Bar{l: l, what: what, total: total, start: now, last: now}
}

// Add counts n more bytes; negative n takes back what a failed attempt added.
func (b *Bar) Add(n int64) {
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	b.done += n
	now := b.l.now()
	every := plainEvery
	if b.l.terminal {
		every = drawEvery
	}
	if now.Sub(b.last) < every {
		return
	}
	b.last = now
	if b.l.terminal {
		fmt.Fprintf(b.l.w, "\r\x1b[K%s", b.text(now))
		b.l.drawn = true
		return
	}
	b.l.line(b.text(now))
}

// Done ends the bar with a line that says how much was moved and how fast.
func (b *Bar) Done() {
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	took := b.l.now().Sub(b.start)
	b.l.line(fmt.Sprintf("  %s: %s in %s%s", b.what, Size(b.done), Duration(took), rate(b.done, took)))
}

func (b *Bar) text(now time.Time) string {
	took := now.Sub(b.start)
	s := fmt.Sprintf("  %s: %s of %s%s", b.what, Size(b.done), Size(b.total), rate(b.done, took))
	if b.total > 0 {
		s += fmt.Sprintf(", %d%%", b.done*100/b.total)
	}
	if b.done > 0 && b.done < b.total {
		left := time.Duration(float64(took) * float64(b.total-b.done) / float64(b.done))
		s += fmt.Sprintf(", %s left", Duration(left))
	}
	return s
}

func rate(n int64, d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return fmt.Sprintf(", %s/s", Size(int64(float64(n)/d.Seconds())))
}

// Size prints a number of bytes for people, in powers of 1000.
func Size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// Duration prints a duration for people: tenths of a second below a minute,
// whole seconds above.
func Duration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}
