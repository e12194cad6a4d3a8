package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

// eachShared runs f with two stores on one database, as two processes have; on
// SQLite, which one process has to itself, both are one.
func eachShared(t *testing.T, f func(t *testing.T, a, b *store.Store)) {
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		c := fresh(t)
		a := storetest.Open(t, c)
		b := a
		if c.URL != "" {
			b = storetest.Open(t, c)
		}
		f(t, a, b)
	})
}

// together runs all of them at the same time and waits.
func together(t *testing.T, fs ...func() error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(fs))
	for i, f := range fs {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestFollowersMissNothing: several writers append to the same runs, in batches
// that name them in different orders and overlap, while readers follow each run's
// positions. A reader that has seen a position never needs to look back.
func TestFollowersMissNothing(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		w := newWorld(t, a)
		const writers, batches = 4, 25
		runs := []id{w.run.ID, "run-2", "run-3"}
		for i, r := range runs[1:] {
			second := w.run
			second.ID, second.Number = r, int64(i+2)
			put(t, a, func(wr writer) error { return wr.PutRun(second) })
		}
		var fs []func() error
		for n := range writers {
			s := []*store.Store{a, b}[n%2]
			fs = append(fs, func() error {
				for batch := range batches {
					var entries []entry
					for i := range runs {
						r := runs[(i+n)%len(runs)]
						// Each event is sent by two writers.
						entries = append(entries, event(r, fmt.Sprint("source ", n/2), int64(batch+1)), line(r, "info", fmt.Sprint(n, " ", batch)))
					}
					if err := s.Update(t.Context(), func(w writer) error { _, err := w.Append(entries); return err }); err != nil {
						return fmt.Errorf("writer %d: %w", n, err)
					}
				}
				return nil
			})
		}
		const events, lines = writers / 2 * batches, writers * batches
		for _, r := range runs {
			s := b
			fs = append(fs, func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				seen := map[string]int{}
				for last := int64(0); last < events+lines; {
					var list []entry
					err := s.View(ctx, func(rd reader) (err error) {
						list, err = rd.Entries(r, computations.EntryFilter{After: last, Limit: 7})
						return err
					})
					if err != nil {
						return fmt.Errorf("reader of %s after %d: %w", r, last, err)
					}
					for _, e := range list {
						if e.Position != last+1 {
							return fmt.Errorf("%s: position %d after %d", r, e.Position, last)
						}
						last = e.Position
						seen[fmt.Sprint(e.Type, e.Message)]++
					}
				}
				if len(seen) != events+lines {
					return fmt.Errorf("%s: %d different entries, want %d", r, len(seen), events+lines)
				}
				return nil
			})
		}
		together(t, fs...)
	})
}

// TestAuditHasNoGaps: many append at once, together with what they did, and the
// chain is whole. What they did is counted right, too.
func TestAuditHasNoGaps(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		w := newWorld(t, a)
		const writers, each = 6, 15
		var fs []func() error
		for n := range writers {
			s := []*store.Store{a, b}[n%2]
			fs = append(fs, func() error {
				for i := range each {
					err := s.Update(t.Context(), func(wr writer) error {
						c := computations.Computation{ID: id(fmt.Sprintf("comp-%d-%d", n, i)), Workspace: w.ws.ID, Creator: w.ann.ID}
						return errors.Join(wr.PutComputation(c), wr.SetParts(c.ID, w.bob.ID, []computations.Part{computations.PartViewer}), wr.AppendAudit(computations.AuditEntry{At: now, Action: "computation.create", Object: c.ID}))
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		together(t, fs...)
		view(t, a, func(r reader) error {
			chain, err := r.AuditChain(0, writers*each+1)
			if len(chain) != writers*each {
				t.Errorf("%d entries, want %d", len(chain), writers*each)
			}
			var previous [32]byte
			for i, e := range chain {
				if e.Sequence != int64(i+1) || e.Previous != previous || e.Hash != e.Sum() {
					t.Errorf("entry %d isn't in the chain", i+1)
				}
				previous = e.Hash
			}
			return err
		})
		for user, want := range map[id]int{"": writers*each + 1, w.bob.ID: writers * each} {
			same(t, b, want, func(r reader) (int, error) {
				counts, err := r.CountComputations(computations.ComputationFilter{Workspace: w.ws.ID, User: user})
				return counts["draft"], err
			})
		}
	})
}

// TestRulesHoldBetweenTransactions: two administrators remove each other at the
// same time; each sees the other before. One must stay.
func TestRulesHoldBetweenTransactions(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		w := newWorld(t, a)
		last := errors.New("the last administrator stays")
		for range 10 {
			for _, u := range []id{w.ann.ID, w.bob.ID} {
				put(t, a, func(wr writer) error {
					return wr.PutMember(computations.Member{Workspace: w.ws.ID, User: u, Role: computations.RoleAdministrator})
				})
			}
			remove := func(s *store.Store, u id) func() error {
				return func() error {
					err := s.Update(t.Context(), func(wr writer) error {
						members, err := wr.Members(w.ws.ID)
						if err != nil {
							return err
						}
						if len(members) < 2 {
							return last
						}
						time.Sleep(time.Millisecond) // so that both have looked
						return wr.DeleteMember(w.ws.ID, u)
					})
					if errors.Is(err, last) {
						return nil
					}
					return err
				}
			}
			together(t, remove(a, w.ann.ID), remove(b, w.bob.ID))
			view(t, a, func(r reader) error {
				members, err := r.Members(w.ws.ID)
				if len(members) != 1 {
					t.Fatalf("%d administrators are left, want 1", len(members))
				}
				return err
			})
		}
	})
}

// TestOneSchedulerAtATime: each takes one run from the queue; none is taken twice.
func TestOneSchedulerAtATime(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		w := newWorld(t, a)
		const n = 20
		for i := range n - 1 {
			r := w.run
			r.ID, r.Number = id(fmt.Sprintf("run-%02d", i)), int64(i+2)
			put(t, a, func(wr writer) error { return wr.PutRun(r) })
		}
		var mu sync.Mutex
		taken := map[id]int{}
		scheduler := func(s *store.Store) func() error {
			return func() error {
				for {
					var got id
					err := s.Update(t.Context(), func(wr writer) error {
						got = ""
						waiting, err := wr.LockQueue(1)
						if err != nil || len(waiting) == 0 {
							return err
						}
						r := waiting[0]
						got, r.State, r.Host = r.ID, computations.RunOffered, w.host.ID
						return wr.PutRun(r)
					})
					if err != nil || got == "" {
						return err
					}
					mu.Lock()
					taken[got]++
					mu.Unlock()
				}
			}
		}
		together(t, scheduler(a), scheduler(b), scheduler(a), scheduler(b))
		if len(taken) != n {
			t.Errorf("%d runs were taken, want %d", len(taken), n)
		}
		for r, times := range taken {
			if times != 1 {
				t.Errorf("%s was taken %d times", r, times)
			}
		}
	})
}

// TestLockRun: what one adds to a run isn't lost to another.
func TestLockRun(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		w := newWorld(t, a)
		var fs []func() error
		const writers, each = 4, 10
		for n := range writers {
			s := []*store.Store{a, b}[n%2]
			fs = append(fs, func() error {
				for i := range each {
					err := s.Update(t.Context(), func(wr writer) error {
						r, err := wr.LockRun(w.run.ID)
						if err != nil {
							return err
						}
						r.Refused = append(r.Refused, id(fmt.Sprint(n, i)))
						return wr.PutRun(r)
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		together(t, fs...)
		view(t, a, func(r reader) error {
			run, err := r.Run(w.run.ID)
			if len(run.Refused) != writers*each {
				t.Errorf("%d, want %d", len(run.Refused), writers*each)
			}
			return err
		})
	})
}

// TestViewSeesOneState: what commits between two looks isn't seen by the second.
func TestViewSeesOneState(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		w := newWorld(t, a)
		view(t, b, func(r reader) error {
			before, err := r.User(w.ann.ID)
			if err != nil {
				return err
			}
			w.ann.Name = "another name"
			put(t, a, func(wr writer) error { return wr.PutUser(w.ann) })
			after, err := r.User(w.ann.ID)
			if before != after {
				t.Errorf("saw %+v and then %+v", before, after)
			}
			return err
		})
	})
}

// TestContextEndsWaiting: whoever waits for the writer doesn't after the context's
// end.
func TestContextEndsWaiting(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	update(t, s, func(writer) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err := s.Update(ctx, func(writer) error { return errors.New("two writers") })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		return nil
	})
}
