package cli

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSeveralOnATerminal are one bar of their sums; what they say stands on lines of
// its own.
func TestSeveralOnATerminal(t *testing.T) {
	o, b, c := testOutput(100, false)
	all := o.together("2 datasets")
	one, two := o.progress("dataset one", 60<<20), o.progress("dataset two", 40<<20)
	all.join(one)
	all.join(two)
	one.begin(0)
	two.begin(10 << 20)
	for i := int64(1); i <= 20; i++ {
		c.pass(200 * time.Millisecond)
		one.set(i << 20)
		two.set((10 + i) << 20)
	}
	lines := strings.Split(b.String(), "\r")
	if last := lines[len(lines)-1]; !strings.Contains(last, "2 datasets [") || !strings.Contains(last, " of 100.0 MiB") || !strings.Contains(last, "MiB/s") {
		t.Errorf("last drawing %q", last)
	}
	one.note("the connection broke")
	one.reach(60 << 20)
	one.finish("sent")
	all.apart(func() { o.hint("the agent has verified it") })
	c.pass(time.Second)
	two.set(35 << 20)
	two.stop()
	all.stop()
	for _, want := range []string{"\r\x1b[Kdataset one: the connection broke\n", "dataset one: sent 60.0 MiB", "the agent has verified it\n", "95.0 MiB of 100.0 MiB, 95%"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in %q", want, b.String())
		}
	}
	if !strings.HasSuffix(b.String(), "\r\x1b[K") {
		t.Errorf("the bar is left: %q", b.String())
	}
}

// TestSeveralElsewhere have lines of their own, also when they come at once.
func TestSeveralElsewhere(t *testing.T) {
	o, b, c := testOutput(0, false)
	all := o.together("2 datasets")
	c.pass(lineEvery)
	var group sync.WaitGroup
	for _, name := range []string{"one", "two"} {
		p := o.progress("dataset "+name, 100<<20)
		p.shown = p.shown.Add(-lineEvery)
		all.join(p)
		group.Go(func() {
			for i := range int64(1000) {
				p.set(i << 10)
			}
			p.finish("sent")
		})
	}
	group.Wait()
	all.stop()
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "dataset one: ") && !strings.HasPrefix(line, "dataset two: ") {
			t.Errorf("%q", line)
		}
	}
	if n := strings.Count(b.String(), "\n"); n != 4 {
		t.Errorf("%d lines, want 4:\n%s", n, b.String())
	}
}
