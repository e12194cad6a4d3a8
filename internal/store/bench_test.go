package store_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

func benchEach(b *testing.B, f func(b *testing.B, s *store.Store)) {
	for _, d := range []struct {
		name  string
		fresh func(testing.TB) store.Config
	}{{"sqlite", storetest.SQLite}, {"postgres", storetest.PostgreSQL}} {
		b.Run(d.name, func(b *testing.B) { f(b, storetest.Open(b, d.fresh(b))) })
	}
}

// BenchmarkAppend commits batches of events of many runs, one batch after the
// other, as the committer of one process does.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 20, 200} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			benchEach(b, func(b *testing.B, s *store.Store) {
				w := newWorld(b, s)
				const runs = 200
				update(b, s, func(wr writer) error {
					for i := range runs {
						r := w.run
						r.ID, r.Number = id(fmt.Sprintf("run-%04d", i)), int64(i+2)
						if err := wr.PutRun(r); err != nil {
							return err
						}
					}
					return nil
				})
				var sequence atomic.Int64
				for b.Loop() {
					entries := make([]entry, size)
					for i := range entries {
						n := sequence.Add(1)
						entries[i] = event(id(fmt.Sprintf("run-%04d", n%runs)), "agent", n/runs+1)
						entries[i].Attributes = map[string]string{"from": "Running", "to": "ResultReady"}
					}
					update(b, s, func(wr writer) error {
						kept, err := wr.Append(entries)
						if len(kept) != size {
							b.Errorf("kept %d of %d", len(kept), size)
						}
						for _, e := range kept {
							wr.Signal(computations.RunTopic(e.Run))
						}
						return err
					})
				}
				b.ReportMetric(float64(sequence.Load())/b.Elapsed().Seconds(), "events/s")
			})
		})
	}
}

// BenchmarkAppendTogether has two processes commit on one PostgreSQL server, each
// events of its own runs, while users change things. again is how many
// transactions of a hundred had to run again.
func BenchmarkAppendTogether(b *testing.B) {
	c := storetest.PostgreSQL(b)
	stores := []*store.Store{storetest.Open(b, c), storetest.Open(b, c)}
	w := newWorld(b, stores[0])
	const runs, size = 100, 200
	for i := range 2 * runs {
		put(b, stores[0], func(wr writer) error {
			r := w.run
			r.ID, r.Number = id(fmt.Sprintf("run-%04d", i)), int64(i+2)
			return wr.PutRun(r)
		})
	}
	stop := make(chan bool)
	var users sync.WaitGroup
	var done atomic.Int64
	users.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			err := stores[n%2].Update(b.Context(), func(wr writer) error {
				comp := computations.Computation{ID: computations.NewID(), Workspace: w.ws.ID, Creator: w.ann.ID}
				return errors.Join(wr.PutComputation(comp), wr.AppendAudit(computations.AuditEntry{At: now, Action: "x", Object: comp.ID}))
			})
			if err != nil {
				b.Error(err)
			}
			done.Add(1)
		}
	})
	sequence := make([]int64, 2)
	for b.Loop() {
		var both sync.WaitGroup
		for n, s := range stores {
			both.Go(func() {
				entries := make([]entry, size)
				for i := range entries {
					sequence[n]++
					entries[i] = event(id(fmt.Sprintf("run-%04d", int64(n*runs)+sequence[n]%runs)), "agent", sequence[n]/runs+1)
				}
				err := s.Update(b.Context(), func(wr writer) error {
					for i := range 20 {
						if _, err := wr.LockRun(entries[i].Run); err != nil {
							return err
						}
					}
					_, err := wr.Append(entries)
					return err
				})
				if err != nil {
					b.Error(err)
				}
				done.Add(1)
			})
		}
		both.Wait()
	}
	close(stop)
	users.Wait()
	b.ReportMetric(float64(sequence[0]+sequence[1])/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(stores[0].Retries()+stores[1].Retries())*100/float64(done.Load()), "again%")
}

// BenchmarkPages reads what pages show, among 100,000 computations (with -short
// among 1,000); p95 is in milliseconds, and cpu what this process computed, which
// another's load doesn't change: all of SQLite's work, and none of the server's.
func BenchmarkPages(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		n := 100_000
		if testing.Short() {
			n = 1000
		}
		f := storetest.Fill(b, s, n)
		for _, p := range pages(f) {
			b.Run(p.name, func(b *testing.B) {
				var times []time.Duration
				before := cpu(b)
				for b.Loop() {
					start := time.Now()
					view(b, s, p.read)
					times = append(times, time.Since(start))
				}
				b.ReportMetric(float64((cpu(b)-before).Microseconds())/1000/float64(len(times)), "cpu-ms/op")
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)*95/100].Microseconds())/1000, "p95-ms")
			})
		}
	})
}

// BenchmarkEntries searches a run that told 100,000 log lines, and follows it.
func BenchmarkEntries(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		w := newWorld(b, s)
		const n, some = 100_000, 1000
		appended(b, s, event(w.run.ID, "service", 1))
		for i := range n / some {
			lines := make([]entry, some)
			for j := range lines {
				lines[j] = line(w.run.ID, "info", fmt.Sprintf("epoch %d, batch %d: loss 0.693147 accuracy 0.5", i, j))
				lines[j].Time = now.Add(time.Duration(i*some+j) * time.Millisecond)
			}
			appended(b, s, lines...)
		}
		type ef = computations.EntryFilter
		for _, c := range []struct {
			name   string
			filter ef
		}{
			{"newest", ef{Backward: true, Limit: 100}},
			{"follow", ef{After: n - 10}},
			{"service-event", ef{Backward: true, Limit: 1, Types: []computations.EntryType{computations.EntryEvent}, Sources: []string{"service"}}},
			{"no-such-text", ef{Text: "No such text", Backward: true, Limit: 100}},
			{"no-such-level", ef{Levels: []string{"error"}, Backward: true, Limit: 100}},
			{"old", ef{To: now.Add(time.Second), Backward: true, Limit: 100}},
		} {
			b.Run(c.name, func(b *testing.B) {
				before := cpu(b)
				times := 0
				for ; b.Loop(); times++ {
					view(b, s, func(r reader) error { _, err := r.Entries(w.run.ID, c.filter); return err })
				}
				b.ReportMetric(float64((cpu(b)-before).Microseconds())/1000/float64(times), "cpu-ms/op")
			})
		}
	})
}

func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type page struct {
	name string
	read func(r reader) error
}

// pages are the reads behind lists, each at its worst.
func pages(f storetest.Filled) []page {
	type cf = computations.ComputationFilter
	list := func(c cf) func(r reader) error {
		c.Workspace = f.Workspace
		return func(r reader) error { _, err := r.Computations(c, computations.Page{Limit: 50}); return err }
	}
	runs := func(c computations.RunFilter) func(r reader) error {
		return func(r reader) error { _, err := r.Runs(c, computations.Page{Limit: 50}); return err }
	}
	return []page{
		{"computations", list(cf{})},
		{"computations-running", list(cf{States: []string{"running", "queued"}})},
		{"computations-ended", list(cf{States: []string{"finished", "failed", "stopped"}})},
		{"computations-text", list(cf{Text: "no such text"})},
		{"computations-of-creator", list(cf{User: f.Creator.ID})},
		{"computations-of-creator-running", list(cf{User: f.Creator.ID, States: []string{"running"}})},
		{"computations-of-provider-failed", list(cf{User: f.Provider.ID, States: []string{"failed"}})},
		{"count", func(r reader) error { _, err := r.CountComputations(cf{Workspace: f.Workspace}); return err }},
		{"count-of-creator", func(r reader) error {
			_, err := r.CountComputations(cf{Workspace: f.Workspace, User: f.Creator.ID})
			return err
		}},
		{"computation", func(r reader) error {
			if _, err := r.Computation(f.Newest); err != nil {
				return err
			}
			_, err := r.AllParts(f.Newest)
			return err
		}},
		{"runs", runs(computations.RunFilter{Workspace: f.Workspace})},
		{"runs-running", runs(computations.RunFilter{Workspace: f.Workspace, States: []computations.RunState{computations.RunRunning, computations.RunStarting}})},
		{"runs-active", func(r reader) error { _, err := r.CountActive(f.Workspace); return err }},
		{"runs-of-creator", runs(computations.RunFilter{Workspace: f.Workspace, User: f.Creator.ID})},
		{"runs-of-provider-running", runs(computations.RunFilter{User: f.Provider.ID, States: []computations.RunState{computations.RunRunning}})},
		{"runs-of-host", runs(computations.RunFilter{Host: f.Hosts[0]})},
		{"entries", func(r reader) error { _, err := r.Entries(f.Run, computations.EntryFilter{}); return err }},
		{"assets", func(r reader) error {
			_, err := r.Assets(computations.AssetFilter{Workspace: f.Workspace, Kind: computations.AssetDataset}, computations.Page{Limit: 50})
			return err
		}},
		{"assets-of-provider", func(r reader) error {
			_, err := r.Assets(computations.AssetFilter{Workspace: f.Workspace, Kind: computations.AssetDataset, Owner: f.Provider.ID}, computations.Page{Limit: 50})
			return err
		}},
		{"invitations-waiting", func(r reader) error {
			if _, err := r.WaitingInvitations(f.Newest); err != nil {
				return err
			}
			_, err := r.CountWaiting(f.Workspace, time.Now())
			return err
		}},
		{"hosts", func(r reader) error { _, err := r.Hosts(); return err }},
		{"audit", func(r reader) error {
			_, err := r.Audit(computations.AuditFilter{Workspace: f.Workspace, Limit: 50})
			return err
		}},
		{"audit-of-object", func(r reader) error {
			_, err := r.Audit(computations.AuditFilter{Workspace: f.Workspace, Object: f.Newest, Limit: 50})
			return err
		}},
	}
}
