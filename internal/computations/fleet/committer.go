package fleet

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

const (
	// maxBatch and maxBatchBytes bound what is committed at once; share is what one
	// stream gets of it while others wait.
	maxBatch      = 1024
	maxBatchBytes = 4 << 20
	share         = 64
	// gather is how long a batch waits for more, and gatherMore where the last one
	// had many items: a transaction costs the same for one and for a hundred.
	gather     = 2 * time.Millisecond
	gatherMore = 15 * time.Millisecond
	many       = 16
	// maxWaiting and maxWaitingBytes bound what waits of one stream: to be
	// committed, or for its acknowledgement to be sent. One item always may.
	maxWaiting      = 256
	maxWaitingBytes = 512 << 10
)

// retries are the pauses after which a batch that failed is tried again; then
// each stream is tried alone, so that none fails for another's sake.
var retries = []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second, 2 * time.Second}

// item is one thing that a Manager said. Exactly one of entry, reply, beyond and
// host is set.
type item struct {
	size  int
	run   computations.ID
	entry *computations.Entry
	// ack answers an event.
	ack *managerv1.EventAck
	// reply answers a request.
	reply *reply
	// beyond is an event that is not kept, as there are too many.
	beyond bool
	// host changes the host's report.
	host func(*computations.HostReport)
}

// reply is a host's answer to a request of a run, or of a run's end.
type reply struct {
	stop    bool
	refused *refusal // nil: it agrees
	port    string   // of the agent of a run that it has accepted
}

// inbox is what waits of one stream; the committer's lock guards it.
type inbox struct {
	items []item
	// count and bytes are of items that wait, and of events whose acknowledgement
	// is not sent.
	count, bytes int
	// listed: the stream is among those that are ready.
	listed bool
	// room has a token when something of it was done.
	room chan struct{}
	// heard is when the host's status came last.
	heard time.Time
	// gone: the stream has ended, and nothing of it is taken any more.
	gone bool
	// owned are runs of which the database has said that this host has accepted
	// them: a run never leaves the host then. The committer's goroutine alone
	// looks at it.
	owned map[computations.ID]bool
	// full are those of them that have told so much that no log lines are kept any
	// more; also the committer's.
	full map[computations.ID]bool
}

// maxOwned bounds owned; beyond, the database is asked again.
const maxOwned = 1024

func (q *inbox) own(run computations.ID) {
	if q.owned == nil || len(q.owned) >= maxOwned {
		q.owned = map[computations.ID]bool{}
	}
	q.owned[run] = true
}

// fill notes that no more log lines of a run are kept.
func (q *inbox) fill(run computations.ID) {
	if q.full == nil || len(q.full) >= maxOwned {
		q.full = map[computations.ID]bool{}
	}
	q.full[run] = true
}

// portion is some of a stream's items, in their order.
type portion struct {
	s     *stream
	items []item
}

// committer writes what all streams of a process bring.
type committer struct {
	f    *Fleet
	wake chan struct{}

	mu    sync.Mutex
	ready []*stream
}

func newCommitter(f *Fleet) *committer { return &committer{f: f, wake: make(chan struct{}, 1)} }

// add puts an item behind the stream's others, once there is room.
func (c *committer) add(ctx context.Context, s *stream, it item) error {
	c.mu.Lock()
	for q := &s.queue; q.count >= maxWaiting || q.bytes > 0 && q.bytes+it.size > maxWaitingBytes; {
		c.mu.Unlock()
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
		c.mu.Lock()
	}
	c.put(s, it)
	c.mu.Unlock()
	return nil
}

// put is add without a look at the room. c.mu is held.
func (c *committer) put(s *stream, it item) {
	q := &s.queue
	if q.gone {
		return
	}
	q.items = append(q.items, it)
	q.count++
	q.bytes += it.size
	if it.host != nil {
		q.heard = time.Now()
	}
	if !q.listed {
		q.listed = true
		c.ready = append(c.ready, s)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// contact notes that the host is there, where it doesn't say so by itself.
func (c *committer) contact(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(s.queue.heard) >= lookEvery {
		c.put(s, item{size: itemSize, host: func(*computations.HostReport) {}})
	}
}

// acknowledged gives back the room of events whose acknowledgements were sent.
func (c *committer) acknowledged(s *stream, n int) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	s.queue.count -= n
	c.mu.Unlock()
	s.queue.free()
}

func (q *inbox) free() {
	select {
	case q.room <- struct{}{}:
	default:
	}
}

// forget drops what waits of a stream that has ended: it is told again.
func (c *committer) forget(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.queue.gone, s.queue.items = true, nil
}

// run commits until ctx ends, and then what is there.
func (c *committer) run(ctx context.Context) {
	for wait := gather; ; {
		select {
		case <-c.wake:
		case <-ctx.Done():
			for {
				batch := c.take()
				if len(batch) == 0 {
					return
				}
				c.commit(context.WithoutCancel(ctx), batch)
			}
		}
		for {
			time.Sleep(wait)
			batch := c.take()
			if len(batch) == 0 {
				break
			}
			c.commit(ctx, batch)
			wait = pauseAfter(batch)
		}
	}
}

// pauseAfter is how long the batch after this one is waited for: not at all where
// more waits than goes into one.
func pauseAfter(batch []portion) time.Duration {
	n := 0
	for _, p := range batch {
		n += len(p.items)
	}
	switch {
	case n >= maxBatch/2:
		return 0
	case n >= many:
		return gatherMore
	}
	return gather
}

// take makes a batch: a share of each stream in turn, until it is full or nothing
// is left.
func (c *committer) take() (batch []portion) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, bytes := 0, 0
	for len(c.ready) > 0 && n < maxBatch && bytes < maxBatchBytes {
		s := c.ready[0]
		c.ready = c.ready[1:]
		q := &s.queue
		k := 0
		for k < min(len(q.items), share) && n < maxBatch && bytes < maxBatchBytes {
			bytes += q.items[k].size
			n++
			k++
		}
		if k > 0 {
			batch = append(batch, portion{s: s, items: q.items[:k:k]})
			q.items = q.items[k:]
		}
		if len(q.items) > 0 {
			c.ready = append(c.ready, s)
		} else {
			q.items, q.listed = nil, false
		}
	}
	if len(c.ready) == 0 {
		c.ready = nil
	}
	return batch
}

// commit writes a batch and acknowledges it.
func (c *committer) commit(ctx context.Context, portions []portion) {
	err := c.write(ctx, portions)
	for _, pause := range retries {
		if err == nil || ctx.Err() != nil {
			break
		}
		c.f.metrics.failed.Inc()
		c.f.log.Error("what Managers told could not be committed; trying again", "in", pause.String(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		err = c.write(ctx, portions)
	}
	if err == nil {
		return
	}
	for _, s := range streamsOf(portions) {
		own := slices.DeleteFunc(slices.Clone(portions), func(p portion) bool { return p.s != s })
		if err := c.write(ctx, own); err != nil {
			// Nothing of it is acknowledged: the Manager tells it again.
			c.f.log.Error("what a Manager told could not be committed; its stream is ended", "host", s.name, "error", err)
			s.end(c.f.hidden(err, "committing what a Manager told"))
			c.forget(s)
		}
	}
}

func streamsOf(portions []portion) (streams []*stream) {
	seen := map[*stream]bool{}
	for _, p := range portions {
		if !seen[p.s] {
			seen[p.s] = true
			streams = append(streams, p.s)
		}
	}
	return streams
}

// write is one transaction, and what follows from it.
func (c *committer) write(ctx context.Context, portions []portion) error {
	begin := time.Now()
	b := &batch{f: c.f, portions: portions}
	c.f.stepEvents("event.committing", portions)
	traced, done := telemetry.StartWork(ctx, "fleet.commit", attribute.Int("cocos.hosts", len(portions)))
	err := c.f.cfg.Store.Update(traced, b.apply)
	if done(err != nil); err != nil {
		return err
	}
	c.f.stepEvents("event.committed", portions)
	c.f.metrics.wrote(b, time.Since(begin))
	b.tellOperators()
	for _, p := range portions {
		for i := range p.items {
			if run := b.runs[p.items[i].run]; run != nil && run.Host == p.s.host && order[run.State] >= order[computations.RunStarting] {
				p.s.queue.own(run.ID)
			}
			if run := p.items[i].run; b.full[run] {
				p.s.queue.fill(run)
			}
		}
		var acks []*managerv1.ConnectResponse
		var answered []computations.ID
		free, bytes := 0, 0
		for i := range p.items {
			it := &p.items[i]
			bytes += it.size
			if it.reply != nil && !it.reply.stop {
				answered = append(answered, it.run)
			}
			if it.ack == nil {
				free++
				continue
			}
			acks = append(acks, &managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_EventAck{EventAck: it.ack}})
		}
		c.mu.Lock()
		p.s.queue.count -= free
		p.s.queue.bytes -= bytes
		c.mu.Unlock()
		p.s.queue.free()
		p.s.send(acks...)
		p.s.answered(answered)
	}
	return nil
}
