package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// sqliteDB is a file with a write-ahead log: readers see the last commit and
// nobody waits for them. One process has it open for writing, with one
// connection that writes; its lock file says so.
type sqliteDB struct {
	path     string
	db       *sql.DB
	readOnly bool
	writer   chan *sqliteConn
	readers  chan *sqliteConn
	unlock   func() error
}

// sqliteConn is a connection with its prepared statements. It is opened by its
// first user.
type sqliteConn struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt
	writes     bool
}

// sqliteDriver has the function fold, and is not the driver that this process
// may have registered for others.
func sqliteDriver() *sqlite.Driver {
	d := &sqlite.Driver{}
	d.MustRegisterDeterministicScalarFunction("fold", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		s, _ := args[0].(string)
		return strings.ToLower(s), nil
	})
	return d
}

// connector makes connections of one name.
type connector struct {
	driver *sqlite.Driver
	name   string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.name) }
func (c connector) Driver() driver.Driver                        { return c.driver }

func openSQLite(ctx context.Context, c Config) (_ *sqliteDB, err error) {
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, err
	}
	s := &sqliteDB{path: path, readOnly: c.ReadOnly, unlock: func() error { return nil },
		writer: make(chan *sqliteConn, 1), readers: make(chan *sqliteConn, c.Connections)}
	if c.ReadOnly {
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
	} else if s.unlock, err = lockFile(path + ".lock"); err != nil {
		return nil, err
	}
	name, err := sqliteName(path, false)
	if err != nil {
		return nil, err
	}
	s.writer <- &sqliteConn{writes: true}
	for range c.Connections {
		s.readers <- &sqliteConn{}
	}
	s.db = sql.OpenDB(connector{sqliteDriver(), name})
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", path, err), s.close())
		}
	}()
	if !c.ReadOnly {
		// The secrets in it are hashes; still nobody else's business.
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	if err := migrate(ctx, s.db, sqliteDialect{}, c.ReadOnly); err != nil {
		return nil, err
	}
	return s, nil
}

// sqliteName is what the driver opens. With only, nothing can be written, and a
// database that nobody else has open is taken as it is.
func sqliteName(path string, only bool) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	q := url.Values{"_dqs": {"0"}}
	if only {
		q.Set("mode", "ro")
	} else {
		q["_pragma"] = []string{
			"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
			"journal_size_limit(67108864)", "cache_size(-4000)", "temp_store(MEMORY)",
		}
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return u.String(), nil
}

// lockFile holds the lock until unlock, or the end of the process.
func lockFile(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: another process has the database open: stop it first, or use PostgreSQL for several", path)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f.Close, nil
}

func (s *sqliteDB) close() error {
	// Waits for transactions that haven't ended.
	for _, pool := range []chan *sqliteConn{s.writer, s.readers} {
		for range cap(pool) {
			if c := <-pool; c.conn != nil {
				c.drop()
			}
		}
		close(pool)
	}
	return errors.Join(s.db.Close(), s.unlock())
}

func (s *sqliteDB) system() attribute.KeyValue { return attribute.String("db.system.name", "sqlite") }

func (s *sqliteDB) check(ctx context.Context) error {
	return s.view(ctx, func(se session) error {
		return se.query(func(scan func(...any) error) error {
			var n int64
			return scan(&n)
		}, "SELECT count(*) FROM settings", nil)
	})
}

func (s *sqliteDB) view(ctx context.Context, f func(session) error) error {
	return s.transaction(ctx, s.readers, "BEGIN", f)
}

func (s *sqliteDB) update(ctx context.Context, _ []lock, f func(session) error) error {
	if s.readOnly {
		return errors.New("the database was opened for reading only")
	}
	return s.transaction(ctx, s.writer, "BEGIN IMMEDIATE", f)
}

func (s *sqliteDB) transaction(ctx context.Context, pool chan *sqliteConn, begin string, f func(session) error) (err error) {
	var c *sqliteConn
	select {
	case c = <-pool:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c == nil {
		return errors.New("the database has been closed")
	}
	defer func() { pool <- c }()
	if err := c.open(s.db); err != nil {
		return err
	}
	se := &sqliteSession{ctx: ctx, c: c}
	if _, err := se.exec(begin, nil); err != nil {
		return err
	}
	done := false
	defer func() {
		if done {
			return
		}
		// f failed, or panicked.
		se.ctx = context.Background()
		if _, e := se.exec("ROLLBACK", nil); e != nil {
			c.drop()
			err = errors.Join(err, e)
		}
	}()
	if err := f(se); err != nil {
		return err
	}
	// What f decided isn't given up half way.
	se.ctx = context.Background()
	if _, err := se.exec("COMMIT", nil); err != nil {
		return err
	}
	done = true
	return nil
}

func (c *sqliteConn) open(db *sql.DB) (err error) {
	if c.conn != nil {
		return nil
	}
	if c.conn, err = db.Conn(context.Background()); err != nil {
		return err
	}
	c.statements = map[string]*sql.Stmt{}
	if !c.writes {
		// There are many that read, and the system keeps the file's pages for all of them.
		for _, pragma := range []string{"query_only = 1", "cache_size = -1000"} {
			if _, err = c.conn.ExecContext(context.Background(), "PRAGMA "+pragma); err != nil {
				c.drop()
				return err
			}
		}
	}
	return nil
}

// drop closes a connection whose state isn't known.
func (c *sqliteConn) drop() {
	for _, s := range c.statements {
		s.Close()
	}
	c.conn.Raw(func(any) error { return driver.ErrBadConn })
	c.conn.Close()
	c.conn = nil
}

// prepare keeps statements: there is a fixed number of them, but for those with
// lists of words.
func (c *sqliteConn) prepare(query string) (*sql.Stmt, error) {
	if s := c.statements[query]; s != nil {
		return s, nil
	}
	if len(c.statements) >= 500 {
		for q, s := range c.statements {
			s.Close()
			delete(c.statements, q)
		}
	}
	s, err := c.conn.PrepareContext(context.Background(), query)
	if err == nil {
		c.statements[query] = s
	}
	return s, err
}

type sqliteSession struct {
	ctx context.Context
	c   *sqliteConn
}

func (*sqliteSession) dialect() dialect { return sqliteDialect{} }

// exec ends between statements when the context does: a watcher for each costs
// more than most of them.
func (s *sqliteSession) exec(query string, args []any) (int64, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	stmt, err := s.c.prepare(query)
	if err != nil {
		return 0, sqliteError(err)
	}
	r, err := stmt.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, sqliteError(err)
	}
	return r.RowsAffected()
}

func (s *sqliteSession) query(row func(scan func(...any) error) error, query string, args []any) error {
	stmt, err := s.c.prepare(query)
	if err != nil {
		return sqliteError(err)
	}
	rows, err := stmt.QueryContext(s.ctx, args...)
	if err != nil {
		return sqliteError(err)
	}
	for rows.Next() && err == nil {
		err = row(rows.Scan)
	}
	if e := rows.Err(); err == nil {
		err = sqliteError(e)
	}
	return errors.Join(err, rows.Close())
}

// bulk is a row at a time: the statement is prepared, and no network in between.
func (s *sqliteSession) bulk(b *bulk, rows [][]any) error {
	query := b.insert("VALUES ($" + strings.Join(numbers(len(b.columns)), ", $") + ")")
	for _, row := range rows {
		if _, err := s.exec(query, row); err != nil {
			return err
		}
	}
	return nil
}

func (*sqliteSession) lock(lock) error { return nil }

// notify: no other process writes.
func (*sqliteSession) notify([]string) error { return nil }

func sqliteError(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch code := e.Code(); {
	case code == sqlite3.SQLITE_CONSTRAINT_UNIQUE || code == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return fmt.Errorf("%w: %w", computations.ErrTaken, err)
	case code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return fmt.Errorf("%w: %w", computations.ErrNoRow, err)
	case code&0xff == sqlite3.SQLITE_BUSY:
		return &again{err: err}
	}
	return err
}
