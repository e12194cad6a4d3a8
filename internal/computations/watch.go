package computations

import (
	"context"
	"reflect"
	"time"
)

const (
	// watchBatch is how many entries a watcher gets at once, and watchBytes how much:
	// no more is begun with.
	watchBatch = 500
	watchBytes = 1 << 20
	maxEntries = 1000
)

// Entries are what a run told, filtered.
func (s *Service) Entries(ctx context.Context, who Identity, run ID, f EntryFilter) ([]Entry, error) {
	if f.Limit <= 0 || f.Limit > maxEntries {
		f.Limit = maxEntries
	}
	return view(ctx, s, func(r Reader) ([]Entry, error) {
		if _, err := s.onRun(r, who, run, RunEntries); err != nil {
			return nil, err
		}
		if err := f.check(); err != nil {
			return nil, err
		}
		return r.Entries(run, f)
	})
}

// Watch sends what a run tells after a position, in order, each entry once, and
// the run whenever it changed; first the run as it is. It returns nil when the run
// has ended and all was sent, the error of send, or ctx's. A watcher who begins
// again with the last position that it saw misses nothing and gets nothing twice.
// Whether the asker may watch is looked at again with each entry, and at least
// every minute.
func (s *Service) Watch(ctx context.Context, who Identity, id ID, after int64, send func([]Entry, Run) error) error {
	signals, cancel := s.store.Listen(RunTopic(id))
	defer cancel()
	again := time.NewTicker(s.recheck)
	defer again.Stop()
	var last *Run
	for {
		// Entries and run of one state: who sees that it ended has all of it.
		var entries []Entry
		x, err := view(ctx, s, func(r Reader) (access, error) {
			x, err := s.onRun(r, who, id, RunEntries)
			if err != nil {
				return access{}, err
			}
			entries, err = r.Entries(id, EntryFilter{After: after, Limit: watchBatch, Bytes: watchBytes})
			return x, err
		})
		if err != nil {
			return err
		}
		if len(entries) > 0 || last == nil || !reflect.DeepEqual(*last, x.run) {
			if err := send(entries, x.run); err != nil {
				return err
			}
			last = &x.run
		}
		if len(entries) > 0 {
			after = entries[len(entries)-1].Position
		}
		if len(entries) == watchBatch || size(entries) >= watchBytes {
			continue
		}
		if x.run.State.Ended() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-signals:
		case <-again.C:
		}
	}
}

func size(entries []Entry) (n int) {
	for i := range entries {
		n += entries[i].Size()
	}
	return n
}
