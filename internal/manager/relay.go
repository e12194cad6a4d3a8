package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
)

// eventKey names an event.
type eventKey struct {
	run      string
	source   eventv1.Source
	sequence uint64
}

// toProto is a spooled event as it goes to the server.
func toProto(runID string, e events.Event) *eventv1.Event {
	return &eventv1.Event{RunId: runID, Source: eventv1.Source(e.Source), Sequence: e.Sequence,
		Time: timestamppb.New(e.Time), Kind: e.Kind, Message: e.Message, Attributes: e.Attributes}
}

// item is one thing that a feed brings: an event or a log line.
type item struct {
	event *eventv1.Event
	log   *eventv1.Log
}

// feed is where events of one run come from: a shim, or a spool on disk. It
// begins with the oldest event that is not acknowledged.
type feed interface {
	// Next waits for the next item; io.EOF when no more will ever come.
	Next(context.Context) (item, error)
	// Ack says that all events of a source up to and with sequence are
	// committed, so that the feed may drop them.
	Ack(source eventv1.Source, sequence uint64) error
}

// sink is where they go: one stream to the server.
type sink interface {
	// Event returns when the event is on its way, in order.
	Event(context.Context, *eventv1.Event) error
	// Log never waits; lines may be dropped.
	Log(*eventv1.Log)
}

// pump carries items from a feed to s, and acknowledgements back, until ctx
// ends, one of them fails or the feed has no more: then it returns nil. The feed
// is opened with a context that ends with the pump.
func pump(ctx context.Context, s sink, open func(context.Context) (feed, error), t *tracker, pass func(*eventv1.Event) error, at func(string), log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	f, err := open(ctx)
	if err != nil {
		return err
	}
	t.rewind()
	jumped := false
	group.Go(func() error {
		for {
			it, err := f.Next(ctx)
			if err != nil {
				return err // io.EOF ends the other half, too
			}
			if it.log != nil {
				s.Log(it.log)
				continue
			}
			at("event.received")
			fresh, gap := t.sent(it.event.GetSource(), it.event.GetSequence())
			if gap && !jumped {
				jumped = true
				log.Error("events are missing: their sequence jumps", "source", it.event.GetSource(), "sequence", it.event.GetSequence())
			}
			if err := pass(it.event); err != nil {
				return err
			}
			if !fresh {
				continue
			}
			if err := s.Event(ctx, it.event); err != nil {
				return err
			}
		}
	})
	group.Go(func() error {
		for {
			select {
			case <-t.news:
			case <-ctx.Done():
				return ctx.Err()
			}
			at("ack.received")
			for source, sequence := range t.take() {
				if err := f.Ack(source, sequence); err != nil {
					return fmt.Errorf("acknowledging event %d of %v: %w", sequence, source, err)
				}
			}
			at("ack.forwarded")
		}
	})
	if err := group.Wait(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// tracker knows which events of one feed the server has committed. Feeds want
// to hear "all up to this one"; the server speaks of single events. So what is
// acknowledged ahead of its turn waits until the gap before it is closed.
type tracker struct {
	mu      sync.Mutex
	sources map[eventv1.Source]*progress
	// news has one token when there is something to take.
	news chan struct{}
}

type progress struct {
	// sent is the last one sent by this feed; 0: none since rewind.
	sent uint64
	// highest was ever sent.
	highest uint64
	// acked: this one and all before it; told: what the feed knows of it.
	acked, told uint64
	ahead       map[uint64]bool
}

func newTracker() *tracker {
	return &tracker{sources: map[eventv1.Source]*progress{}, news: make(chan struct{}, 1)}
}

// rewind begins with a new feed, which knows nothing of earlier ones.
func (t *tracker) rewind() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.sources {
		p.sent, p.told = 0, 0
	}
}

// forget begins anew: what an earlier feed said was not to be relied on.
func (t *tracker) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.sources)
}

// sent notes that an event is being sent. It is not fresh when the server has
// committed it already; there is a gap when others should have come before it.
func (t *tracker) sent(source eventv1.Source, sequence uint64) (fresh, gap bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.sources[source]
	if p == nil {
		// The feed begins with the oldest that is not acknowledged.
		p = &progress{acked: sequence - 1, highest: sequence - 1, ahead: map[uint64]bool{}}
		t.sources[source] = p
	}
	if sequence <= p.acked {
		// The feed has not heard of it.
		p.told = 0
		t.tell()
		return false, false
	}
	expected := p.acked + 1
	if p.sent >= expected {
		expected = p.sent + 1
	}
	p.sent = sequence
	p.highest = max(p.highest, sequence)
	if sequence > expected {
		// What is not there can't be waited for.
		p.acked = sequence - 1
		return true, true
	}
	return true, false
}

// ack takes the server's word for one event; it is false for one that was
// never sent.
func (t *tracker) ack(source eventv1.Source, sequence uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.sources[source]
	if p == nil || sequence > p.highest || sequence == 0 {
		return false
	}
	if sequence <= p.acked {
		return true
	}
	p.ahead[sequence] = true
	for p.ahead[p.acked+1] {
		delete(p.ahead, p.acked+1)
		p.acked++
	}
	if p.acked > p.told {
		t.tell()
	}
	return true
}

func (t *tracker) tell() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// take returns what the feed has not been told.
func (t *tracker) take() map[eventv1.Source]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[eventv1.Source]uint64{}
	for source, p := range t.sources {
		if p.acked > p.told {
			p.told = p.acked
			out[source] = p.acked
		}
	}
	return out
}

// spoolFeed brings what is in a spool on disk.
type spoolFeed struct {
	run    string
	spool  *spool.Spool
	reader *spool.Reader
	// over tells whether nothing will be added to what is in the spool.
	over func() bool
}

func openSpoolFeed(run string, s *spool.Spool, over func() bool) func(context.Context) (feed, error) {
	return func(context.Context) (feed, error) {
		return &spoolFeed{run: run, spool: s, reader: s.NewReader(), over: over}, nil
	}
}

// Next implements feed: the end is when all is acknowledged and over.
func (f *spoolFeed) Next(ctx context.Context) (item, error) {
	for {
		changed := f.spool.Changed()
		record, ok, err := f.reader.TryNext()
		if err != nil {
			return item{}, err
		}
		if ok {
			e, err := events.Decode(record)
			return item{event: toProto(f.run, e)}, err
		}
		if f.over() && f.spool.Unacknowledged() == 0 {
			return item{}, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return item{}, ctx.Err()
		}
	}
}

// Ack implements feed.
func (f *spoolFeed) Ack(source eventv1.Source, sequence uint64) error {
	if err := f.spool.Ack(spool.Source(source), sequence); err != nil {
		return err
	}
	return f.spool.Sync()
}
