package manager

import "sync"

// lanes works on requests: those of one name in the order in which they came,
// those of different names side by side. It is bounded, and add never waits.
type lanes struct {
	maxCount, maxBytes int
	slots              chan struct{}
	group              sync.WaitGroup

	mu    sync.Mutex
	count int
	bytes int
	// queued are the requests of each name that has a worker.
	queued map[string][]request
}

type request struct {
	size int
	do   func()
}

func newLanes(count, bytes, atOnce int) *lanes {
	return &lanes{maxCount: count, maxBytes: bytes, slots: make(chan struct{}, atOnce), queued: map[string][]request{}}
}

// add takes a request of size bytes; false: there is too much already.
func (l *lanes) add(name string, size int, do func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == l.maxCount || l.bytes+size > l.maxBytes {
		return false
	}
	l.count++
	l.bytes += size
	q, working := l.queued[name]
	l.queued[name] = append(q, request{size: size, do: do})
	if !working {
		l.group.Go(func() { l.work(name) })
	}
	return true
}

// work is one lane, until it is empty.
func (l *lanes) work(name string) {
	for {
		l.mu.Lock()
		q := l.queued[name]
		if len(q) == 0 {
			delete(l.queued, name)
			l.mu.Unlock()
			return
		}
		r := q[0]
		q[0] = request{}
		l.queued[name] = q[1:]
		l.mu.Unlock()
		l.slots <- struct{}{}
		r.do()
		<-l.slots
		l.mu.Lock()
		l.count--
		l.bytes -= r.size
		l.mu.Unlock()
	}
}

// wait returns when every request has been worked on; none may be added any
// more.
func (l *lanes) wait() { l.group.Wait() }
