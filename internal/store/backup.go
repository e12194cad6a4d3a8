package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// backup copies what one transaction sees. The copy has its name only when it is
// whole and on disk.
func (s *sqliteDB) backup(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return errors.New("there is something already: name a file that doesn't exist")
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return install(path, func(part string) error {
		_, err := conn.ExecContext(ctx, "VACUUM INTO $1", part)
		return err
	})
}

// Restore makes the SQLite file to from a backup, where there is none. The backup
// is checked first, all of it.
func Restore(ctx context.Context, backup, to string) error {
	if err := restore(ctx, backup, to); err != nil {
		return fmt.Errorf("restoring %s from %s: %w", to, backup, err)
	}
	return nil
}

func restore(ctx context.Context, backup, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, os.ErrNotExist) {
		return errors.New("there is a database already: stop the service and move it away first, with its -wal and -shm files")
	}
	if _, err := os.Stat(backup); err != nil {
		return err
	}
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	unlock, err := lockFile(to + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	for _, rest := range []string{"-wal", "-shm"} {
		if _, err := os.Lstat(to + rest); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is another database's: move it away first", to+rest)
		}
	}
	name, err := sqliteName(backup, true)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector{sqliteDriver(), name})
	defer db.Close()
	var fault string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&fault); err != nil {
		return err
	}
	if fault != "ok" {
		return fmt.Errorf("the backup is damaged: %s", fault)
	}
	if err := knownSchema(ctx, db, sqliteDialect{}); err != nil {
		return err
	}
	return install(to, func(part string) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO $1", part)
		return err
	})
}

// install gives path to the file that write makes, when it is on disk.
func install(path string, write func(part string) error) error {
	part := path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Made first: the database would give everybody the right to read it.
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(part)
	if err := write(part); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// Rename would replace what has come there meanwhile; some file systems have
	// nothing else.
	err = os.Link(part, path)
	if errors.Is(err, unix.EPERM) || errors.Is(err, errors.ErrUnsupported) {
		err = os.Rename(part, path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
