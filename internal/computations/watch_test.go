package computations_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

// tell appends entries to runs as those who hear hosts do.
func (w *world) tell(run c.ID, source string, from, n int) {
	var es []c.Entry
	for i := from; i < from+n; i++ {
		es = append(es, c.Entry{Run: run, Type: c.EntryEvent, Source: source, Sequence: int64(i + 1), Time: w.clock.Now(), Level: "info", Kind: "test", Message: fmt.Sprint(i)})
	}
	if err := w.store.Update(context.WithoutCancel(w.ctx), func(x c.Writer) error {
		x.Signal(c.RunTopic(run))
		_, err := x.Append(es)
		return err
	}); err != nil {
		w.t.Error(err)
	}
}

// A hundred watchers, who break off now and then and begin again where they were,
// each get every entry once and in order, while several write at once.
func TestWatchersMissNothing(t *testing.T) { storetest.Each(t, watchersMissNothing) }

func watchersMissNothing(t *testing.T, fresh func(testing.TB) store.Config) {
	const watchers, writers, batches, size = 100, 4, 10, 5
	p := playOn(t, fresh)
	p.ready()
	run := p.run()
	errBreak := errors.New("connection broke")
	var group, writing sync.WaitGroup
	var reconnects atomic.Int64
	for n := range watchers {
		group.Go(func() {
			who := []*person{p.alice, p.bob, p.carol, p.dave}[n%4]
			var after int64
			seen := map[string]int64{}
			ended := false
			for !ended {
				left := 1 + rand.IntN(100)
				err := p.Watch(p.ctx, who.Identity, run.ID, after, func(es []c.Entry, r c.Run) error {
					for _, e := range es {
						if e.Position != after+1 {
							t.Errorf("watcher %d: position %d after %d", n, e.Position, after)
						}
						if e.Sequence != seen[e.Source]+1 {
							t.Errorf("watcher %d: %s %d after %d", n, e.Source, e.Sequence, seen[e.Source])
						}
						after, seen[e.Source] = e.Position, e.Sequence
					}
					ended = r.State.Ended()
					if left -= len(es); left < 0 && !ended {
						return errBreak
					}
					return nil
				})
				switch {
				case errors.Is(err, errBreak):
					reconnects.Add(1)
				case err != nil:
					t.Errorf("watcher %d: %v", n, err)
					return
				}
			}
			if want := int64(1 + writers*batches*size); after != want {
				t.Errorf("watcher %d got %d entries, want %d", n, after, want)
			}
		})
	}
	for n := range writers {
		writing.Go(func() {
			for b := range batches {
				p.tell(run.ID, fmt.Sprintf("source%d", n), b*size, size)
			}
		})
	}
	writing.Wait()
	p.put(run.ID, func(r *c.Run) { r.State, r.Ended = c.RunFinished, p.clock.Now() })
	group.Wait()
	if reconnects.Load() == 0 {
		t.Error("nobody began again")
	}
}

func TestWatch(t *testing.T) {
	p := newPlay(t)
	p.ready()
	run := p.run()
	type got struct {
		n     int
		state c.RunState
	}
	seen := make(chan got, 100)
	watch := func(who *person, after int64) (done chan error) {
		done = make(chan error, 1)
		go func() {
			done <- p.Watch(p.ctx, who.Identity, run.ID, after, func(es []c.Entry, r c.Run) error {
				seen <- got{len(es), r.State}
				return nil
			})
		}()
		return done
	}
	next := func(want got) {
		t.Helper()
		select {
		case g := <-seen:
			if g != want {
				t.Errorf("got %+v, want %+v", g, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing came; want %+v", want)
		}
	}
	done := watch(p.bob, 0)
	next(got{1, c.RunQueued}) // run.queued
	p.put(run.ID, func(r *c.Run) { r.State = c.RunStarting })
	next(got{0, c.RunStarting}) // nothing was told, but the run changed
	p.tell(run.ID, "agent", 0, 1200)
	next(got{500, c.RunStarting})
	next(got{500, c.RunStarting})
	next(got{200, c.RunStarting})
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error { w.Signal(c.RunTopic(run.ID)); return nil }))
	p.put(run.ID, func(r *c.Run) { r.State, r.Ended = c.RunFinished, p.clock.Now() })
	next(got{0, c.RunFinished}) // and nothing for the signal in between
	p.ok(<-done)
	// Afterwards: what is left, at once.
	done = watch(p.bob, 1000)
	next(got{201, c.RunFinished})
	p.ok(<-done)
	done = watch(p.bob, 1201)
	next(got{0, c.RunFinished})
	p.ok(<-done)
	if len(seen) != 0 {
		t.Errorf("more came: %+v", <-seen)
	}
}

// A watcher who goes away is let go; one who may watch no longer is sent away,
// with the next entry, or without any within a minute.
func TestWatchEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		lose func(*play)
		kind c.Kind
	}{
		"removed":    {func(p *play) { p.ok(p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, p.bob.User)) }, c.NotFound},
		"disabled":   {func(p *play) { p.ok(p.SetUserDisabled(p.ctx, p.op.Identity, p.bob.User, true)) }, c.Unauthenticated},
		"signed out": {func(p *play) { p.ok(p.SignOut(p.ctx, p.bob.Identity)) }, c.Unauthenticated},
	} {
		for _, told := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s %t", name, told), func(t *testing.T) {
				p := newPlay(t)
				p.ready()
				run := p.run()
				if !told {
					c.SetRecheck(p.Service, 10*time.Millisecond)
				}
				began, done := make(chan struct{}), make(chan error, 1)
				var entries atomic.Int64
				go func() {
					done <- p.Watch(p.ctx, p.bob.Identity, run.ID, 0, func(es []c.Entry, _ c.Run) error {
						if entries.Add(int64(len(es))) == 1 {
							close(began)
						}
						return nil
					})
				}()
				<-began
				tt.lose(p)
				if told {
					p.tell(run.ID, "agent", 0, 3)
				}
				select {
				case err := <-done:
					refused(t, err, tt.kind, "")
				case <-time.After(30 * time.Second):
					t.Fatal("goes on watching")
				}
				if n := entries.Load(); n != 1 {
					t.Errorf("got %d entries", n)
				}
			})
		}
	}
	p := newPlay(t)
	p.ready()
	run := p.run()
	ctx, cancel := context.WithCancel(p.ctx)
	err := p.Watch(ctx, p.bob.Identity, run.ID, 0, func([]c.Entry, c.Run) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Long entries come in batches of a bounded size, and none is lost.
func TestWatchIsBoundedInBytes(t *testing.T) {
	p := newPlay(t)
	p.ready()
	run := p.run()
	var es []c.Entry
	for i := range 5 {
		es = append(es, c.Entry{Run: run.ID, Type: c.EntryEvent, Source: "agent", Sequence: int64(i + 1), Kind: "test", Attributes: map[string]string{"x": strings.Repeat("y", 400<<10)}})
	}
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error { return empty(w.Append(es)) }))
	p.put(run.ID, func(r *c.Run) { r.State, r.Ended = c.RunFinished, p.clock.Now() })
	var got []int
	p.ok(p.Watch(p.ctx, p.bob.Identity, run.ID, 0, func(es []c.Entry, _ c.Run) error {
		got = append(got, len(es))
		return nil
	}))
	if !slices.Equal(got, []int{4, 2}) { // the first has run.queued
		t.Errorf("batches of %v", got)
	}
}

func TestEntriesAreBounded(t *testing.T) {
	p := newPlay(t)
	p.ready()
	run := p.run()
	p.tell(run.ID, "agent", 0, 1500)
	for limit, want := range map[int]int{0: 1000, -1: 1000, 5000: 1000, 10: 10} {
		es, err := p.Entries(p.ctx, p.bob.Identity, run.ID, c.EntryFilter{Limit: limit})
		if err != nil || len(es) != want {
			t.Errorf("limit %d gives %d, %v", limit, len(es), err)
		}
	}
}
