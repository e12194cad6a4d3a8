package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ultravioletrs/cocos/internal/bytesize"
)

const (
	barEvery  = 100 * time.Millisecond // between two drawings of a bar
	lineEvery = 5 * time.Second        // between two lines where there is no terminal
	markEvery = 500 * time.Millisecond // between two samples for the rate
	samples   = 16                     // so the rate looks back on 8 s, or on some lines
)

// progress shows how far a transfer has come. It belongs to one goroutine, but for
// what a group shows of it.
type progress struct {
	// group shows it together with others; nil: it shows itself.
	group *together

	w       io.Writer
	silent  bool
	columns func() int
	now     func() time.Time

	label       string
	total, done int64
	// from is where this run began: bytes before it were there already.
	from           int64
	started, shown time.Time
	drawn          bool // a bar stands on the terminal's line
	past           [samples]sample
	n              int // samples taken
}

type sample struct {
	at   time.Time
	done int64
}

// progress begins one; total < 0: not known.
func (o *output) progress(label string, total int64) *progress {
	now := o.now()
	return &progress{
		w: o.stderr, silent: o.json, columns: o.columns, now: o.now,
		label: clean(label), total: total, started: now, shown: now,
	}
}

// begin says that done bytes were there before this run's first.
func (p *progress) begin(done int64) {
	defer p.group.lock()()
	p.from, p.done, p.n = done, done, 0
	p.mark(p.now())
}

// expect says how many bytes there are to be.
func (p *progress) expect(total int64) {
	defer p.group.lock()()
	p.total = total
}

// reach is set without showing it.
func (p *progress) reach(done int64) {
	defer p.group.lock()()
	p.done = done
}

// set says how many bytes are done.
func (p *progress) set(done int64) {
	defer p.group.lock()()
	p.done = done
	if p.silent {
		return
	}
	if p.group != nil && p.columns() > 0 {
		p.group.draw()
		return
	}
	now := p.now()
	if cols := p.columns(); cols > 0 {
		if now.Sub(p.shown) >= barEvery {
			p.shown = now
			fmt.Fprintf(p.w, "\r%s\x1b[K", p.bar(cols, now))
			p.drawn = true
			p.mark(now)
		}
		return
	}
	if now.Sub(p.shown) >= lineEvery {
		p.shown = now
		fmt.Fprintf(p.w, "%s: %s%s\n", p.label, p.amount(), p.speed(now))
		p.mark(now)
	}
}

// note shows a line of its own, such as why a transfer pauses.
func (p *progress) note(format string, args ...any) {
	if p.silent {
		return
	}
	defer p.group.lock()()
	p.clear()
	fmt.Fprintf(p.w, "%s: %s\n", p.label, clean(fmt.Sprintf(format, args...)))
}

// finish replaces the bar with one last line.
func (p *progress) finish(verb string) {
	if p.silent {
		return
	}
	defer p.group.lock()()
	p.clear()
	moved, took := p.done-p.from, p.now().Sub(p.started)
	s := fmt.Sprintf("%s: %s %s in %s", p.label, verb, bytesize.Round(p.done), brief(took))
	if p.from > 0 {
		s += fmt.Sprintf(" (%s of it before)", bytesize.Round(p.from))
	}
	if sec := took.Seconds(); sec >= 0.1 && moved >= 1<<20 {
		s += fmt.Sprintf(", %s/s", bytesize.Round(int64(float64(moved)/sec)))
	}
	fmt.Fprintln(p.w, s)
}

// stop takes the bar away, for an error that follows.
func (p *progress) stop() {
	if !p.silent {
		defer p.group.lock()()
		p.clear()
	}
}

func (p *progress) mark(now time.Time) {
	if p.n > 0 && now.Sub(p.past[(p.n-1)%samples].at) < markEvery {
		return
	}
	p.past[p.n%samples] = sample{now, p.done}
	p.n++
}

// rate is in bytes per second since the oldest sample; 0: not known.
func (p *progress) rate(now time.Time) float64 {
	if p.n == 0 {
		return 0
	}
	oldest := p.past[max(0, p.n-samples)%samples]
	if d := now.Sub(oldest.at); d >= barEvery && p.done > oldest.done {
		return float64(p.done-oldest.done) / d.Seconds()
	}
	return 0
}

func (p *progress) percent() int {
	if p.total <= 0 {
		return 0
	}
	return int(100 * float64(min(p.done, p.total)) / float64(p.total))
}

func (p *progress) amount() string {
	if p.total < 0 {
		return bytesize.Round(p.done)
	}
	return fmt.Sprintf("%s of %s, %d%%", bytesize.Round(p.done), bytesize.Round(p.total), p.percent())
}

// speed is the rate and the remaining time, as far as they are known.
func (p *progress) speed(now time.Time) string {
	r := p.rate(now)
	if r <= 0 {
		return ""
	}
	s := fmt.Sprintf(", %s/s", bytesize.Round(int64(r)))
	if left := p.total - p.done; p.total > 0 && left > 0 {
		s += fmt.Sprintf(", %s left", brief(time.Duration(float64(left)/r*float64(time.Second))))
	}
	return s
}

// bar is one line of less than cols characters.
func (p *progress) bar(cols int, now time.Time) string {
	tail := " " + p.amount() + p.speed(now)
	label := p.label
	if room := cols - 1 - utf8.RuneCountInString(tail); room < utf8.RuneCountInString(label) {
		label = cut(label, max(room, 8))
	}
	cells := min(cols-1-utf8.RuneCountInString(label)-utf8.RuneCountInString(tail)-3, 30)
	if p.total > 0 && cells >= 5 {
		full := int(float64(cells) * float64(min(p.done, p.total)) / float64(p.total))
		tail = " [" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]" + tail
	}
	return cut(label+tail, max(cols-1, 1))
}

// cut shortens s to n characters at most.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	if n < 2 {
		return string(r[:n])
	}
	return string(r[:n-1]) + "…"
}

func (p *progress) clear() {
	if p.group != nil {
		p.group.bar.clear()
	}
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}
