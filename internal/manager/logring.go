package manager

import (
	"slices"
	"sync"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

// logRing keeps the youngest log lines for the server and hands them out run by
// run in turn. Where there are too many, the run that has the most loses its
// oldest one, so that a run which says little loses none to one that floods.
// What is dropped is counted on the next line of its run.
type logRing struct {
	maxLines, maxBytes int
	// ready has one token while there are lines.
	ready chan struct{}

	mu     sync.Mutex
	queues map[string]*logQueue
	// turns are the runs that have lines, the next one first.
	turns        []string
	lines, bytes int
	// lost counts what was dropped and is on no line yet.
	lost map[string]uint64
}

type logQueue struct {
	lines []*eventv1.Log
	bytes int
}

// logCost is what a line takes beside its text, in bytes, about.
const logCost = 256

func cost(l *eventv1.Log) int { return len(l.GetMessage()) + logCost }

func newLogRing(lines, bytes int) *logRing {
	return &logRing{maxLines: lines, maxBytes: bytes, ready: make(chan struct{}, 1), queues: map[string]*logQueue{}, lost: map[string]uint64{}}
}

// put adds a line and tells how many had to go.
func (r *logRing) put(l *eventv1.Log) (dropped uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := l.GetRunId()
	q := r.queues[run]
	if q == nil {
		q = &logQueue{}
		r.queues[run] = q
		r.turns = append(r.turns, run)
	}
	q.lines = append(q.lines, l)
	q.bytes += cost(l)
	r.lines++
	r.bytes += cost(l)
	for r.lines > r.maxLines || r.bytes > r.maxBytes && r.lines > 1 {
		loser := run
		for other, o := range r.queues {
			if o.bytes > r.queues[loser].bytes {
				loser = other
			}
		}
		r.lost[loser] += 1 + r.pop(loser).GetDropped()
		dropped++
	}
	r.signal()
	return dropped
}

// take returns the next line; nil where there is none.
func (r *logRing) take() *eventv1.Log {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.turns) == 0 {
		return nil
	}
	run := r.turns[0]
	r.turns = append(r.turns[1:], run)
	l := r.pop(run)
	if n := r.lost[run]; n > 0 {
		l.Dropped += n
		delete(r.lost, run)
	}
	if r.lines > 0 {
		r.signal()
	}
	return l
}

// pop takes the oldest line of a run that has one.
func (r *logRing) pop(run string) *eventv1.Log {
	q := r.queues[run]
	l := q.lines[0]
	q.lines[0] = nil
	q.lines = q.lines[1:]
	q.bytes -= cost(l)
	r.lines--
	r.bytes -= cost(l)
	if len(q.lines) == 0 {
		delete(r.queues, run)
		r.turns = slices.DeleteFunc(r.turns, func(t string) bool { return t == run })
	}
	return l
}

func (r *logRing) signal() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}
