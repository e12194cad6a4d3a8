package shim

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/recent"
)

// Bounds of the log lines that wait for the Manager.
const (
	maxLogLines = 10_000
	maxLogBytes = 4 << 20
	// lineCost is what a line takes beside its text, about.
	lineCost = 128
)

// logRing keeps the newest lines. A line that had to go is counted in the next
// one that is taken.
type logRing struct {
	maxLines, maxBytes int
	// seen has copies for whoever looks on.
	seen *recent.Ring[*eventv1.Log]

	mu      sync.Mutex
	lines   []*eventv1.Log
	bytes   int
	dropped uint64
	changed chan struct{}
	// tokens lines more may come now; refilled at logRate since filled.
	tokens float64
	filled time.Time
}

func newLogRing(lines, bytes int) *logRing {
	return &logRing{maxLines: lines, maxBytes: bytes, seen: newSeen(), tokens: logBurst, changed: make(chan struct{})}
}

func (r *logRing) add(l *eventv1.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen.Add(proto.CloneOf(l), len(l.GetMessage())+lineCost)
	r.lines = append(r.lines, l)
	r.bytes += len(l.GetMessage()) + lineCost
	for len(r.lines) > r.maxLines || r.bytes > r.maxBytes && len(r.lines) > 1 {
		r.dropped += 1 + r.lines[0].GetDropped()
		r.pop()
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// limited adds a line unless too many came before now.
func (r *logRing) limited(l *eventv1.Log, now time.Time) {
	r.mu.Lock()
	if d := now.Sub(r.filled); !r.filled.IsZero() && d > 0 {
		r.tokens = min(logBurst, r.tokens+d.Seconds()*logRate)
	}
	r.filled = now
	if r.tokens < 1 {
		r.dropped += 1 + l.GetDropped()
		r.mu.Unlock()
		return
	}
	r.tokens--
	r.mu.Unlock()
	r.add(l)
}

func (r *logRing) pop() *eventv1.Log {
	l := r.lines[0]
	r.lines[0] = nil
	r.lines = r.lines[1:]
	r.bytes -= len(l.GetMessage()) + lineCost
	return l
}

// take returns the oldest line, or nil and a channel that closes with the next.
func (r *logRing) take() (*eventv1.Log, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == 0 {
		return nil, r.changed
	}
	l := r.pop()
	l.Dropped += r.dropped
	r.dropped = 0
	return l, r.changed
}
