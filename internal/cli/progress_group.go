package cli

import "sync"

// together shows several transfers at once: on a terminal as one bar of their sums, and
// elsewhere by a line of each now and then. What one of them has to say, and apart,
// stand on lines of their own. A nil one is none.
type together struct {
	mu      sync.Mutex
	bar     *progress
	members []*progress
}

// together begins one.
func (o *output) together(label string) *together { return &together{bar: o.progress(label, 0)} }

// join makes p, which has just begun, a member.
func (g *together) join(p *progress) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p.group = g
	g.members = append(g.members, p)
}

// lock returns what unlocks.
func (g *together) lock() (unlock func()) {
	if g == nil {
		return func() {}
	}
	g.mu.Lock()
	return g.mu.Unlock
}

// draw shows the sums. The group is locked.
func (g *together) draw() {
	g.bar.total, g.bar.from = 0, 0
	done := int64(0)
	for _, p := range g.members {
		g.bar.total += max(p.total, p.done)
		g.bar.from += p.from
		done += p.done
	}
	g.bar.set(done)
}

// apart has f write lines between those of the transfers.
func (g *together) apart(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bar.clear()
	f()
}

// stop takes the bar away.
func (g *together) stop() { g.bar.stop() }
