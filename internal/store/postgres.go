package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"go.opentelemetry.io/otel/attribute"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// postgresDB is a server's, which several processes share. Who writes has
// connections apart: a hundred watchers that look at what was committed must not
// keep the next commit waiting.
type postgresDB struct {
	pool     *pgxpool.Pool // reads
	writers  *pgxpool.Pool // nil with readOnly
	readOnly bool
	// process is this one's name in notifications: it wakes its own listeners
	// itself.
	process string
	hub     *hub
	log     *slog.Logger
	stop    context.CancelFunc
	stopped chan struct{}
}

func openPostgres(ctx context.Context, c Config, h *hub) (_ *postgresDB, err error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, err // without the password
	}
	config.MaxConns = int32(c.Connections)
	if p := config.ConnConfig.RuntimeParams; p["application_name"] == "" {
		p["application_name"] = "cocos-computations"
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 10 * time.Second
	}
	config.AfterConnect = settle
	s := &postgresDB{process: uuid.NewString(), hub: h, log: c.Log, readOnly: c.ReadOnly, stopped: make(chan struct{})}
	defer func() {
		if err != nil {
			s.closePools()
		}
	}()
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	if !c.ReadOnly {
		writing := config.Copy()
		writing.MaxConns = int32(max(c.Connections/2, 1))
		writing.AfterConnect = settleWriter
		if s.writers, err = pgxpool.NewWithConfig(ctx, writing); err != nil {
			return nil, err
		}
	}
	if err := s.prepare(ctx, c.ReadOnly); err != nil {
		return nil, err
	}
	first, err := s.listen(ctx)
	if err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go s.follow(background, first)
	return s, nil
}

// settle makes a connection's settings; as statements, because poolers take few
// others.
func settle(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `
		-- A scan of a whole table, however small, would put a transaction in the way of
		-- every other one on it.
		SET enable_seqscan = off;
		SET jit = off;
		SET synchronous_commit = on;
		-- A process whose machine is gone without a word keeps its locks for half a
		-- minute, and not for hours. (One that was killed keeps none.)
		SET idle_in_transaction_session_timeout = '30s';
		SET tcp_keepalives_idle = 10;
		SET tcp_keepalives_interval = 5;
		SET tcp_keepalives_count = 4;
		SET tcp_user_timeout = '30s'`)
	return err
}

// settleWriter is settle; besides, what writes is planned once and not each time:
// its statements find rows by their keys, whatever the values.
func settleWriter(ctx context.Context, c *pgx.Conn) error {
	if err := settle(ctx, c); err != nil {
		return err
	}
	_, err := c.Exec(ctx, "SET plan_cache_mode = force_generic_plan")
	return err
}

// prepare checks what the schema can't, and makes the schema. One process at a
// time does.
func (s *postgresDB) prepare(ctx context.Context, readOnly bool) error {
	return s.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		var encoding string
		if err := c.QueryRow(ctx, "SHOW server_encoding").Scan(&encoding); err != nil {
			return err
		}
		if encoding != "UTF8" {
			return fmt.Errorf("its encoding is %s: make it with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0", encoding)
		}
		// Searches put letters into small ones: those of the text here, those of the
		// columns in the database. In the locale C it knows ASCII alone.
		folds := false
		if err := c.QueryRow(ctx, "SELECT lower('ÀÜЖΩ') = 'àüжω'").Scan(&folds); err != nil {
			return err
		}
		if !folds {
			return errors.New("its locale knows capitals of ASCII alone, so that searches would miss names: make it with CREATE DATABASE ... LOCALE 'C.UTF-8' ENCODING 'UTF8' TEMPLATE template0, or with another locale of UTF-8")
		}
		if !readOnly {
			if _, err := c.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(lockMigrate)); err != nil {
				return err
			}
			defer s.unlock(c.Conn(), []lock{lockMigrate})
		}
		db := stdlib.OpenDBFromPool(s.pool)
		defer db.Close()
		return migrate(ctx, db, postgresDialect{}, readOnly)
	})
}

func (s *postgresDB) close() error {
	s.stop()
	<-s.stopped
	s.closePools()
	return nil
}

func (s *postgresDB) closePools() {
	for _, pool := range []*pgxpool.Pool{s.writers, s.pool} {
		if pool != nil {
			pool.Close()
		}
	}
}

func (s *postgresDB) system() attribute.KeyValue {
	return attribute.String("db.system.name", "postgresql")
}

func (s *postgresDB) check(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, "SELECT 1 FROM settings LIMIT 1")
	return err
}

func (*postgresDB) backup(context.Context, string) error {
	return errors.New("this is for SQLite: back up PostgreSQL with pg_dump or its own continuous archiving")
}

func (s *postgresDB) view(ctx context.Context, f func(session) error) error {
	return s.transaction(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, nil, f)
}

func (s *postgresDB) update(ctx context.Context, locks []lock, f func(session) error) error {
	if s.readOnly {
		return errors.New("the database was opened for reading only")
	}
	return s.transaction(ctx, s.writers, pgx.TxOptions{IsoLevel: pgx.Serializable}, locks, f)
}

func (s *postgresDB) transaction(ctx context.Context, pool *pgxpool.Pool, options pgx.TxOptions, locks []lock, f func(session) error) (err error) {
	c, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	// Whatever is lost before the commit was sent never was.
	lost := func(err error) error {
		if err != nil && ctx.Err() == nil && c.Conn().IsClosed() {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		return err
	}
	if len(locks) > 0 {
		// Before the transaction: what it sees is settled with its first statement, and
		// waiting in it would be for a state that is over.
		defer s.unlock(c.Conn(), locks)
		for _, l := range locks {
			if _, err := c.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(l)); err != nil {
				return lost(err)
			}
		}
	}
	t, err := c.BeginTx(ctx, options)
	if err != nil {
		return lost(err)
	}
	// What f decided isn't given up half way, and a connection is left clean.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	defer t.Rollback(end) // nothing after Commit
	if err := f(&postgresSession{ctx: ctx, t: t, held: locks, process: s.process}); err != nil {
		return lost(err)
	}
	if err = postgresError(t.Commit(end)); err != nil && c.Conn().IsClosed() {
		err = fmt.Errorf("the connection was lost while committing, and it isn't known whether that was done: %w", err)
	}
	return err
}

// unlock closes the connection if it can't: that unlocks, too.
func (s *postgresDB) unlock(c *pgx.Conn, locks []lock) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, l := range locks {
		if _, err := c.Exec(ctx, "SELECT pg_advisory_unlock($1)", int64(l)); err != nil {
			c.Close(ctx)
			return
		}
	}
}

type postgresSession struct {
	ctx     context.Context
	t       pgx.Tx
	held    []lock
	process string
}

func (*postgresSession) dialect() dialect { return postgresDialect{} }

func (s *postgresSession) exec(query string, args []any) (int64, error) {
	tag, err := s.t.Exec(s.ctx, query, args...)
	return tag.RowsAffected(), postgresError(err)
}

func (s *postgresSession) query(row func(scan func(...any) error) error, query string, args []any) error {
	rows, err := s.t.Query(s.ctx, query, args...)
	if err != nil {
		return postgresError(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return postgresError(rows.Err())
}

// bulk sends columns, not rows: one statement whatever their number.
func (s *postgresSession) bulk(b *bulk, rows [][]any) error {
	args := make([]any, len(b.columns))
	lists := make([]string, len(b.columns))
	for i, kind := range b.types {
		lists[i] = fmt.Sprintf("$%d::%s[]", i+1, kind)
		switch kind {
		case "text":
			args[i] = column[string](rows, i)
		case "bigint":
			args[i] = column[int64](rows, i)
		case "boolean":
			args[i] = column[bool](rows, i)
		}
	}
	_, err := s.exec(b.insert("SELECT * FROM unnest("+strings.Join(lists, ", ")+")"), args)
	return err
}

func column[T any](rows [][]any, i int) []T {
	list := make([]T, len(rows))
	for n, row := range rows {
		list[n] = row[i].(T)
	}
	return list
}

// lock doesn't wait: who waits here would go on with a state that is over.
func (s *postgresSession) lock(l lock) error {
	if slices.Contains(s.held, l) {
		return nil
	}
	var got bool
	err := s.t.QueryRow(s.ctx, "SELECT pg_try_advisory_xact_lock($1)", int64(l)).Scan(&got)
	if err == nil && !got {
		return &again{locks: []lock{l}, err: errors.New("another one does it")}
	}
	return postgresError(err)
}

func postgresError(err error) error {
	var e *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		switch e.Code {
		case "23505": // unique_violation
			return fmt.Errorf("%w: %w", computations.ErrTaken, err)
		case "23503": // foreign_key_violation
			return fmt.Errorf("%w: %w", computations.ErrNoRow, err)
		case "40001", "40P01": // serialization_failure, deadlock_detected
			return &again{locks: []lock{lockAudit}, err: err}
		}
	}
	return err
}
