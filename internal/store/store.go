// Package store keeps the Computation Management service's state in SQL: in an
// embedded SQLite file for one process, or on a PostgreSQL server for several.
// It implements computations.Store.
//
// Transactions that write are serializable. SQLite has one writer at a time;
// PostgreSQL says which transactions got into each other's way, and those run
// again. What Update returned for is on disk: both databases sync each commit.
//
// Positions of a run's entries and sequences of the audit log have no gaps and
// appear in their order: who gives one out holds a lock until the commit.
//
// The schema is in migrations, one for both databases; where they differ, the
// difference is marked there, or is a method of dialect. A table's columns and a
// struct's members meet in one list of cells, which reads and writes.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// Config of a Store. Exactly one of URL and Path is set.
type Config struct {
	// URL of a PostgreSQL database, such as "postgres://user@host/cocos".
	URL string
	// Path of the SQLite file, made where there is none.
	Path string
	// ReadOnly opens what is there already, also while a service has it open, and
	// changes nothing.
	ReadOnly bool
	// Connections bounds how many transactions read at the same time; on PostgreSQL
	// half as many more write. Zero: 16.
	Connections int
	// Now is the clock of Entry.Committed; nil: time.Now.
	Now func() time.Time
	// Log is told of lost connections; nil: slog.Default.
	Log *slog.Logger
}

// Store is a computations.Store. Use Open.
type Store struct {
	db      database
	hub     *hub
	now     func() time.Time
	retries atomic.Int64
	close   func() error
}

var _ computations.Store = (*Store)(nil)

// database is what SQLite and PostgreSQL do each in its way.
type database interface {
	// view and update run f in a transaction; update commits it unless f fails. It
	// takes the locks before the transaction begins to see anything.
	view(ctx context.Context, f func(session) error) error
	update(ctx context.Context, locks []lock, f func(session) error) error
	check(ctx context.Context) error
	// system is what a span says of the database.
	system() attribute.KeyValue
	backup(ctx context.Context, path string) error
	close() error
}

// session is one transaction's connection. Its errors are those of this package
// where callers tell them apart.
type session interface {
	dialect() dialect
	exec(query string, args []any) (int64, error)
	// query calls row for each row; scan may be called once in it.
	query(row func(scan func(...any) error) error, query string, args []any) error
	// bulk inserts rows: texts, int64s and bools.
	bulk(b *bulk, rows [][]any) error
	// lock keeps others out of what the lock is for until the end.
	lock(lock) error
	// notify tells other processes of signals, with the commit.
	notify(topics []string) error
}

// lock is something that one transaction does at a time.
type lock int64

const (
	lockAudit lock = 0xc0c05001 + iota
	lockQueue
	lockMigrate
)

// again is a transaction that must run again, with these locks taken first.
type again struct {
	locks []lock
	err   error
}

func (e *again) Error() string { return "in another transaction's way: " + e.err.Error() }
func (e *again) Unwrap() error { return e.err }

// errLost is a connection that was lost before anything was committed.
var errLost = errors.New("connection lost")

// attempts bounds how often a transaction runs. From the second on it waits for
// its turn, so that it fails again only for somebody who came first.
const attempts = 40

// Open opens the database and brings its schema up to date.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{hub: newHub(), now: c.Now}
	if s.now == nil {
		s.now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Connections <= 0 {
		c.Connections = 16
	}
	var err error
	switch {
	case (c.URL == "") == (c.Path == ""):
		return nil, errors.New("opening the database: either the URL of a PostgreSQL database or the path of an SQLite file is needed")
	case c.Path != "":
		s.db, err = openSQLite(ctx, c)
	default:
		s.db, err = openPostgres(ctx, c, s.hub)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	s.close = sync.OnceValue(s.db.close)
	return s, nil
}

// Close ends all connections, after the transactions that have begun.
func (s *Store) Close() error { return s.close() }

// Check tells whether the database answers, for a probe of readiness.
func (s *Store) Check(ctx context.Context) error { return s.db.check(ctx) }

// Backup writes a copy of an SQLite database as it is at one moment, while others
// read and write, into a file that must not exist. The copy is on disk when it
// returns.
func (s *Store) Backup(ctx context.Context, path string) error {
	if err := s.db.backup(ctx, path); err != nil {
		return fmt.Errorf("backing up to %s: %w", path, err)
	}
	return nil
}

// Retries counts the transactions that ran again, as others were in their way or the
// connection was lost.
func (s *Store) Retries() int64 { return s.retries.Load() }

// View runs f in a transaction that sees one state and changes nothing.
func (s *Store) View(ctx context.Context, f func(computations.Reader) error) (err error) {
	attempt := 1
	ctx, done := telemetry.StartPart(ctx, "store.view", s.db.system())
	defer func() { done(attempt, broke(err)) }()
	for ; ; attempt++ {
		err = s.db.view(ctx, func(se session) error {
			x := &tx{session: se, now: s.now}
			return x.end(f(x))
		})
		if attempt == attempts || !errors.Is(err, errLost) || !pause(ctx, attempt) {
			return err
		}
	}
}

// Update runs f in a transaction and again as long as others get in its way.
func (s *Store) Update(ctx context.Context, f func(computations.Writer) error) (err error) {
	var locks []lock
	attempt := 1
	ctx, done := telemetry.StartPart(ctx, "store.update", s.db.system())
	defer func() { done(attempt, broke(err)) }()
	for ; ; attempt++ {
		var topics []string
		err = s.db.update(ctx, locks, func(se session) error {
			x := &tx{session: se, now: s.now, signals: map[string]bool{}}
			if err := x.end(f(x)); err != nil {
				return err
			}
			topics = x.topics()
			return se.notify(topics)
		})
		if err == nil {
			s.hub.wake(topics)
			return nil
		}
		var more *again
		switch {
		case errors.As(err, &more):
			for _, l := range more.locks {
				if !slices.Contains(locks, l) {
					locks = append(locks, l)
				}
			}
			slices.Sort(locks)
		case !errors.Is(err, errLost):
			return err
		}
		s.retries.Add(1)
		if attempt == attempts {
			return fmt.Errorf("%d attempts: %w", attempts, err)
		}
		if !pause(ctx, attempt) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// broke tells an error of the database from what a use case says to its caller,
// and from a caller who has left.
func broke(err error) bool {
	var one *computations.Error
	var all computations.Errors
	return err != nil && !errors.Is(err, computations.ErrNoRow) && !errors.Is(err, context.Canceled) && !errors.As(err, &one) && !errors.As(err, &all)
}

// pause waits a little longer each time, and never as long as another.
func pause(ctx context.Context, attempt int) bool {
	t := time.NewTimer(rand.N(min(time.Millisecond<<min(attempt, 10), 100*time.Millisecond)))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Listen returns a channel that gets a value after each signal on the topic.
func (s *Store) Listen(topic string) (signals <-chan struct{}, cancel func()) {
	return s.hub.listen(topic)
}
