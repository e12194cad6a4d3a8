package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
)

const (
	serviceManagers = 1000
	serviceRuns     = 10000
	// watchers follow so many runs while latency is measured.
	watchers = 300
	// perUser is how many of them one user has, on one connection.
	perUser = 30
	// sustained is the rate at which latency is measured, in events per second,
	// unless the service commits less: then it is paced of what it commits.
	sustained = 5000
	paced     = 0.8
	// serviceTurns bounds the turns: each takes half a minute on each database.
	serviceTurns = 3
	warmUp       = 3 * time.Second
	taken        = 10 * time.Second
	// quietTime is how long connected Managers are left alone before memory is
	// looked at; Go gives memory back by and by.
	quietTime    = 45 * time.Second
	serviceLimit = 15 * time.Minute
	batchSize    = 1024
)

// serviceRows are the names of the rows of one kind of database.
func serviceRows(suffix string) []string {
	return []string{"events_committed_per_second" + suffix, "event_to_watcher_p99" + suffix}
}

// serviceBench measures the service with 1,000 Managers connected and 10,000
// computations. Throughput: each Manager keeps 16 events under way; beside it, the
// same entries written straight to such a database, 1,024 to a transaction.
// Latency: from an event's making by its Manager until a watcher has it over the
// user API, while events come at a steady rate; beside it, from a commit of one
// entry to the listener that has read it, without network, one at a time.
func serviceBench(suffix string, fresh func(dir string) (store.Config, error)) func(context.Context, *lab) ([]row, error) {
	return func(ctx context.Context, l *lab) (rows []row, err error) {
		names := serviceRows(suffix)
		rate := row{name: names[0], unit: "1/s", reference: "the same entries written straight to the database", aim: aim{ofValue: true, atLeast: true, bound: 5000}}
		late := row{name: names[1], unit: "ms", reference: "one entry committed and read by its listener, at rest", aim: aim{ofValue: true, bound: 250}}
		err = l.withService(ctx, fresh, func(ctx context.Context, s *serviceLab) error {
			if err := s.connectAll(ctx); err != nil {
				return err
			}
			l.say("Managers are connected")
			for range min(l.runs, serviceTurns) {
				got, err := s.flood(ctx)
				if err != nil {
					return err
				}
				rate.values = append(rate.values, got)
				l.say("%s is %.0f; watching", names[0], got)
				latency, err := s.watchPaced(ctx, min(sustained, paced*got))
				if err != nil {
					return err
				}
				late.values = append(late.values, latency)
				straight, alone, err := straightToDatabase(ctx, fresh, l)
				if err != nil {
					return err
				}
				rate.referenceValues = append(rate.referenceValues, straight)
				late.referenceValues = append(late.referenceValues, alone)
			}
			return nil
		})
		return []row{rate, late}, err
	}
}

// streamMemory is what a connected Manager that is silent but for its status costs
// the service in memory; beside it, a bare TLS connection costs a Go program.
func streamMemory(ctx context.Context, l *lab) ([]row, error) {
	r := row{name: "manager_stream_rss", unit: "KiB", reference: "a bare TLS connection to a Go program", aim: aim{ofValue: true, bound: 64}}
	err := l.withService(ctx, freshSQLite, func(ctx context.Context, s *serviceLab) error {
		before, err := watchMemory(s.process.pid())
		if err != nil {
			return err
		}
		if err := s.connectAll(ctx); err != nil {
			return err
		}
		if err := sleep(ctx, quietTime); err != nil {
			return err
		}
		after, err := watchMemory(s.process.pid())
		if err != nil {
			return err
		}
		r.values = append(r.values, float64(after.idle-before.idle)/serviceManagers)
		bare, err := bareTLSMemory(ctx, l, serviceManagers)
		r.referenceValues = append(r.referenceValues, bare)
		return err
	})
	return []row{r}, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// straightToDatabase writes entries without the service: many to a transaction,
// and then one by one, each read by a listener.
func straightToDatabase(ctx context.Context, fresh func(string) (store.Config, error), l *lab) (rate, latency float64, err error) {
	dir, remove, err := diskFolder()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	config, err := fresh(dir)
	if err != nil {
		return 0, 0, err
	}
	s, err := store.Open(ctx, config)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	f, err := fill(ctx, s, filepath.Join(dir, "authority"), 10, 1000)
	if err != nil {
		return 0, 0, err
	}
	written := 0
	began := time.Now()
	for sequence := int64(1); time.Since(began) < taken/2; sequence++ {
		entries := make([]computations.Entry, batchSize)
		for i := range entries {
			entries[i] = benchEntry(f.runs[i%len(f.runs)], sequence*2+int64(i/len(f.runs)))
		}
		err := s.Update(ctx, func(w computations.Writer) error {
			_, err := w.Append(entries)
			return err
		})
		if err != nil {
			return 0, 0, err
		}
		written += len(entries)
	}
	rate = float64(written) / time.Since(began).Seconds()
	var waits []float64
	run := f.runs[0]
	signals, cancel := s.Listen(computations.RunTopic(run))
	defer cancel()
	after := int64(0)
	for i := range 500 {
		began := time.Now()
		err := s.Update(ctx, func(w computations.Writer) error {
			w.Signal(computations.RunTopic(run))
			kept, err := w.Append([]computations.Entry{benchEntry(run, int64(1_000_000+i))})
			if err == nil {
				after = kept[0].Position - 1
			}
			return err
		})
		if err != nil {
			return 0, 0, err
		}
		<-signals
		err = s.View(ctx, func(r computations.Reader) error {
			_, err := r.Entries(run, computations.EntryFilter{After: after})
			return err
		})
		if err != nil {
			return 0, 0, err
		}
		waits = append(waits, milliseconds(time.Since(began)))
	}
	return rate, percentile(waits, 0.99), nil
}

func benchEntry(run computations.ID, sequence int64) computations.Entry {
	return computations.Entry{Run: run, Type: computations.EntryEvent, Source: "agent", Sequence: sequence, Time: time.Now(), Level: "info",
		Kind: eventKind, Message: "something has happened", Attributes: map[string]string{"name": "data.csv"}}
}

func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(int(float64(len(values))*p), len(values)-1)]
}

// flood counts what is acknowledged while every Manager says as much as it may.
func (s *serviceLab) flood(ctx context.Context) (float64, error) {
	const window = 16
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, m := range s.managers {
		go m.push(ctx, window)
	}
	if err := sleep(ctx, warmUp); err != nil {
		return 0, err
	}
	before, began := s.acked.Load(), time.Now()
	if err := sleep(ctx, taken); err != nil {
		return 0, err
	}
	n, took := s.acked.Load()-before, time.Since(began)
	cancel()
	if err := s.settle(); err != nil {
		return 0, err
	}
	return float64(n) / took.Seconds(), nil
}

// settle waits until everything that is under way has been acknowledged.
func (s *serviceLab) settle() error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err := s.trouble(); err != nil {
			return err
		}
		if s.sent.Load() == s.acked.Load() {
			return nil
		}
	}
	return fmt.Errorf("of %d events %d were acknowledged", s.sent.Load(), s.acked.Load())
}
