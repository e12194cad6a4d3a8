package manager

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

const (
	agentSource = eventv1.Source_SOURCE_AGENT
	shimSource  = eventv1.Source_SOURCE_SHIM
)

func TestTracker(t *testing.T) {
	tr := newTracker()
	sent := func(sequence uint64, wantFresh, wantGap bool) {
		t.Helper()
		if fresh, gap := tr.sent(agentSource, sequence); fresh != wantFresh || gap != wantGap {
			t.Errorf("sent %d: fresh %v, gap %v", sequence, fresh, gap)
		}
	}
	ack := func(sequence uint64, want bool) {
		t.Helper()
		if got := tr.ack(agentSource, sequence); got != want {
			t.Errorf("ack %d: %v", sequence, got)
		}
	}
	take := func(want uint64) {
		t.Helper()
		if got := tr.take()[agentSource]; got != want {
			t.Errorf("to be told: %d, expected %d", got, want)
		}
	}
	ack(1, false) // nothing was sent
	sent(4, true, false)
	sent(5, true, false)
	sent(6, true, false)
	ack(0, false)
	ack(7, false) // ahead of everything
	take(3)       // known from where the feed began
	ack(5, true)  // ahead of 4
	take(0)
	ack(4, true)
	take(5)
	ack(4, true) // again
	take(0)
	// Another source goes its own way.
	if fresh, gap := tr.sent(shimSource, 1); !fresh || gap {
		t.Error("the sources are mixed up")
	}
	// A new feed that has not heard of 5.
	tr.rewind()
	sent(5, false, false)
	take(5)
	sent(6, true, false)
	ack(6, true)
	take(6)
	// What does not exist can't be waited for.
	sent(9, true, true)
	ack(9, true)
	take(9)
}

// scripted is a feed with so many events of the agent.
type scripted struct {
	n     uint64
	next  uint64
	mu    sync.Mutex
	acked uint64
	all   chan struct{}
}

func newScripted(n uint64) *scripted { return &scripted{n: n, all: make(chan struct{})} }

func (f *scripted) Next(ctx context.Context) (item, error) {
	if f.next < f.n {
		f.next++
		return item{event: &eventv1.Event{Source: agentSource, Sequence: f.next}}, nil
	}
	select {
	case <-f.all:
		return item{}, io.EOF
	case <-ctx.Done():
		return item{}, ctx.Err()
	}
}

func (f *scripted) Ack(_ eventv1.Source, sequence uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sequence < f.acked {
		return errors.New("acknowledgements go backwards")
	}
	f.acked = sequence
	if sequence == f.n {
		close(f.all)
	}
	return nil
}

// acking is a sink that acknowledges in an order of its own.
type acking struct {
	tr  *tracker
	got []uint64
	ack func(got []uint64) []uint64
}

func (s *acking) Event(_ context.Context, e *eventv1.Event) error {
	s.got = append(s.got, e.GetSequence())
	for _, sequence := range s.ack(s.got) {
		s.tr.ack(agentSource, sequence)
	}
	return nil
}

func (s *acking) Log(*eventv1.Log) {}

func none(*eventv1.Event) error { return nil }

func TestPump(t *testing.T) {
	for name, ack := range map[string]func([]uint64) []uint64{
		"at once": func(got []uint64) []uint64 { return got[len(got)-1:] },
		"all at the end": func(got []uint64) []uint64 {
			if len(got) < 100 {
				return nil
			}
			return got
		},
		"the last first": func(got []uint64) []uint64 {
			if len(got) < 100 {
				return nil
			}
			turned := slices.Clone(got)
			slices.Reverse(turned)
			return turned
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, tr := newScripted(100), newTracker()
			s := &acking{tr: tr, ack: ack}
			open := func(context.Context) (feed, error) { return f, nil }
			if err := pump(t.Context(), s, open, tr, none, func(string) {}, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			if len(s.got) != 100 || !slices.IsSorted(s.got) {
				t.Errorf("arrived: %v", s.got)
			}
		})
	}
}

// TestPumpEnds: whichever end fails, the other does not stay behind.
func TestPumpEnds(t *testing.T) {
	broken := errors.New("broken")
	idle := func(context.Context) (feed, error) { return newScripted(1), nil }
	for name, c := range map[string]struct {
		open func(context.Context) (feed, error)
		sink sink
		pass func(*eventv1.Event) error
	}{
		"no feed":      {func(context.Context) (feed, error) { return nil, broken }, &acking{}, none},
		"feed fails":   {func(context.Context) (feed, error) { return failing{broken}, nil }, &acking{}, none},
		"sink fails":   {idle, failing{broken}, none},
		"note fails":   {idle, &acking{}, func(*eventv1.Event) error { return broken }},
		"ack is taken": {func(context.Context) (feed, error) { return &refusing{*newScripted(1), broken}, nil }, nil, none},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTracker()
			s := c.sink
			if s == nil {
				s = &acking{tr: tr, ack: func(got []uint64) []uint64 { return got }}
			}
			if err := pump(t.Context(), s, c.open, tr, c.pass, func(string) {}, slog.New(slog.DiscardHandler)); !errors.Is(err, broken) {
				t.Errorf("%v", err)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Next(context.Context) (item, error)          { return item{}, f.err }
func (f failing) Ack(eventv1.Source, uint64) error            { return f.err }
func (f failing) Event(context.Context, *eventv1.Event) error { return f.err }
func (f failing) Log(*eventv1.Log)                            {}

type refusing struct {
	scripted
	err error
}

func (f *refusing) Ack(eventv1.Source, uint64) error { return f.err }
