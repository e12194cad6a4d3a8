package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

// raw is a connection that knows nothing of the store.
func raw(t testing.TB, c store.Config) *sql.DB {
	t.Helper()
	driver, name := "sqlite", c.Path
	if c.URL != "" {
		driver, name = "pgx", c.URL
	}
	db, err := sql.Open(driver, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestSchemaKeeps: what must never change doesn't, by whatever statement.
func TestSchemaKeeps(t *testing.T) {
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		c := fresh(t)
		s := storetest.Open(t, c)
		newWorld(t, s)
		put(t, s, func(w writer) error { return w.AppendAudit(computations.AuditEntry{At: now, Action: "a"}) })
		db := raw(t, c)
		const frozen, appended = "a frozen manifest never changes", "the audit log is only appended to"
		for statement, want := range map[string]string{
			"UPDATE computations SET manifest = NULL WHERE id = 'comp-frozen'":           frozen,
			"UPDATE computations SET manifest = digest WHERE id = 'comp-frozen'":         frozen,
			"UPDATE computations SET digest = NULL WHERE id = 'comp-frozen'":             frozen,
			"UPDATE computations SET frozen = frozen + 1 WHERE id = 'comp-frozen'":       frozen,
			"UPDATE computations SET revision = 9 WHERE id = 'comp-frozen'":              frozen,
			"UPDATE computations SET must_approve = 0 WHERE id = 'comp-frozen'":          frozen,
			"UPDATE computations SET workspace_id = 'ws-other' WHERE id = 'comp-frozen'": frozen,
			"UPDATE audit SET action = 'b'":                                              appended,
			"DELETE FROM audit":                                                          appended,
		} {
			if _, err := db.ExecContext(t.Context(), statement); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", statement, err, want)
			}
		}
		if c.URL != "" {
			if _, err := db.ExecContext(t.Context(), "TRUNCATE audit"); err == nil || !strings.Contains(err.Error(), appended) {
				t.Errorf("TRUNCATE: %v", err)
			}
		}
		for _, statement := range []string{
			"UPDATE computations SET revision = 9 WHERE id = 'comp-draft'",
			"UPDATE computations SET archived = 1 WHERE id = 'comp-frozen'",
		} {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
		}
		for query, want := range map[string]int{
			"SELECT count(*) FROM computations WHERE id = 'comp-frozen' AND manifest IS NOT NULL AND revision = 3": 1,
			"SELECT count(*) FROM audit WHERE action = 'a'":                                                        1,
		} {
			var n int
			if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil || n != want {
				t.Errorf("%s: %d, %v", query, n, err)
			}
		}
	})
}

// TestOpenAgain: what was there is there, and a newer schema is refused.
func TestOpenAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		c := fresh(t)
		if c.URL != "" {
			c = storetest.EmptyPostgreSQL(t)
		}
		only := c
		only.ReadOnly = true
		if s, err := store.Open(t.Context(), only); err == nil {
			s.Close()
			t.Error("an empty database was opened for reading only")
		}
		for _, want := range []string{"", "1"} {
			s, err := store.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			same(t, s, want, func(r reader) (string, error) { return r.Setting("x") })
			put(t, s, func(w writer) error { return w.PutSetting("x", "1") })

			// At the same time, for reading only.
			also := storetest.Open(t, only)
			same(t, also, "1", func(r reader) (string, error) { return r.Setting("x") })
			if err := also.Update(t.Context(), func(w writer) error { return w.PutSetting("x", "2") }); err == nil || !strings.Contains(err.Error(), "reading only") {
				t.Errorf("writing: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := s.View(t.Context(), func(reader) error { return nil }); err == nil {
				t.Error("a closed store was read")
			}
		}
		if _, err := raw(t, c).ExecContext(t.Context(), "INSERT INTO schema_versions (version_id, is_applied) VALUES (999, TRUE)"); err != nil {
			t.Fatal(err)
		}
		for _, c := range []store.Config{c, only} {
			s, err := store.Open(t.Context(), c)
			if err == nil {
				s.Close()
				t.Fatal("a newer schema was opened")
			}
			for _, want := range []string{"version 999", "newer cocos-computations", "run that version"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v lacks %q", err, want)
				}
			}
		}
	})
}

// TestOpenAtOnce: several processes start on an empty database at the same time.
func TestOpenAtOnce(t *testing.T) {
	c := storetest.EmptyPostgreSQL(t)
	var fs []func() error
	for range 4 {
		fs = append(fs, func() error {
			s, err := store.Open(t.Context(), c)
			if err != nil {
				return err
			}
			return s.Close()
		})
	}
	together(t, fs...)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no database\n"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	taken := storetest.SQLite(t)
	storetest.Open(t, taken)
	latin := storetest.PostgreSQL(t)
	if _, err := raw(t, latin).ExecContext(t.Context(), "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	latin.URL = strings.Replace(latin.URL, "postgres:///"+strings.Split(strings.TrimPrefix(latin.URL, "postgres:///"), "?")[0], "postgres:///latin", 1)
	ascii := storetest.PostgreSQL(t)
	if _, err := raw(t, ascii).ExecContext(t.Context(), "CREATE DATABASE ascii ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	ascii.URL = strings.Replace(ascii.URL, "postgres:///"+strings.Split(strings.TrimPrefix(ascii.URL, "postgres:///"), "?")[0], "postgres:///ascii", 1)
	for name, c := range map[string]struct {
		config store.Config
		want   string
	}{
		"nothing":            {store.Config{}, "either"},
		"both":               {store.Config{URL: "postgres:///x", Path: "x"}, "either"},
		"no folder":          {store.Config{Path: filepath.Join(dir, "no", "x.db")}, "no such file"},
		"no database":        {store.Config{Path: text}, "not a database"},
		"nothing to read":    {store.Config{Path: filepath.Join(dir, "x.db"), ReadOnly: true}, "no such file"},
		"open already":       {taken, "another process"},
		"no URL":             {store.Config{URL: "postgres://%zz"}, "cannot parse"},
		"nobody there":       {store.Config{URL: "postgres:///x?host=" + dir}, "no such file"},
		"not made for UTF-8": {latin, "ENCODING 'UTF8'"},
		"letters of ASCII":   {ascii, "LOCALE 'C.UTF-8'"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := store.Open(t.Context(), c.config)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "opening the database: ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestBackup(t *testing.T) {
	c := storetest.SQLite(t)
	s := storetest.Open(t, c)
	w := newWorld(t, s)
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	// While the backup is made, each transaction appends a line and counts it.
	begun, ended := make(chan bool), make(chan error)
	go func() {
		for n := int64(1); ; n++ {
			err := s.Update(ctx, func(wr writer) error {
				_, err := wr.Append([]entry{event(w.run.ID, "agent", n)})
				return errors.Join(err, wr.AppendAudit(computations.AuditEntry{At: now, Action: "x"}))
			})
			if ctx.Err() != nil {
				ended <- nil
				return
			}
			if err != nil {
				ended <- err
				return
			}
			if n == 20 {
				close(begun)
			}
		}
	}()
	<-begun
	backup := filepath.Join(dir, "backup.db")
	if err := s.Backup(t.Context(), backup); err != nil {
		t.Error(err)
	}
	// A tool does it from another process.
	only := c
	only.ReadOnly = true
	if err := storetest.Open(t, only).Backup(t.Context(), filepath.Join(dir, "second.db")); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(t.Context(), backup); err == nil || !strings.Contains(err.Error(), "something already") {
		t.Errorf("over a backup: %v", err)
	}
	for _, name := range []string{"backup.db", "second.db"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		restored := filepath.Join(dir, "restored-"+name)
		if err := store.Restore(t.Context(), path, restored); err != nil {
			t.Fatal(err)
		}
		r := storetest.Open(t, store.Config{Path: restored})
		view(t, r, func(rd reader) error {
			entries, err := rd.Entries(w.run.ID, computations.EntryFilter{})
			if err != nil {
				return err
			}
			audit, err := rd.AuditChain(0, len(entries)+10)
			if len(entries) < 20 || len(entries) != len(audit) {
				t.Errorf("%d entries and %d of the log: not one state", len(entries), len(audit))
			}
			return err
		})
		same(t, r, w.host, func(rd reader) (computations.Host, error) { return rd.Host(w.host.ID) })
		put(t, r, func(wr writer) error { return wr.PutSetting("x", "1") })
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.part")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	c := storetest.SQLite(t)
	s := storetest.Open(t, c)
	newWorld(t, s)
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := s.Backup(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	damaged := bytes.Clone(whole)
	copy(damaged[len(damaged)/2:], bytes.Repeat([]byte{0xa5}, 8192))
	foreign := raw(t, store.Config{Path: filepath.Join(dir, "foreign")})
	if _, err := foreign.ExecContext(t.Context(), "CREATE TABLE x (y)"); err != nil {
		t.Fatal(err)
	}
	newer := write("newer", whole)
	if _, err := raw(t, store.Config{Path: newer}).ExecContext(t.Context(), "INSERT INTO schema_versions (version_id, is_applied) VALUES (999, TRUE)"); err != nil {
		t.Fatal(err)
	}
	write("to.db-wal", nil)
	for name, c := range map[string]struct{ from, to, want string }{
		"over a database":    {good, c.Path, "there is a database already"},
		"over a log":         {good, filepath.Join(dir, "to.db"), "to.db-wal is another database's"},
		"nothing there":      {filepath.Join(dir, "no"), filepath.Join(dir, "to"), "no such file"},
		"no database":        {write("text", []byte(strings.Repeat("no database\n", 100))), filepath.Join(dir, "to"), "not a database"},
		"cut":                {write("cut", whole[:len(whole)/2]), filepath.Join(dir, "to"), ""},
		"damaged":            {write("damaged", damaged), filepath.Join(dir, "to"), ""},
		"another's":          {filepath.Join(dir, "foreign"), filepath.Join(dir, "to"), "no database of cocos-computations"},
		"of a newer program": {newer, filepath.Join(dir, "to"), "version 999"},
	} {
		t.Run(name, func(t *testing.T) {
			err := store.Restore(t.Context(), c.from, c.to)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "to")); err == nil {
				t.Error("something was restored")
			}
		})
	}
}

func TestBackupOfPostgreSQL(t *testing.T) {
	s := storetest.Open(t, storetest.PostgreSQL(t))
	if err := s.Backup(t.Context(), filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("got %v", err)
	}
}

// TestWaitsForAnotherWriter: somebody has the file open with a tool of SQLite's
// and writes; nobody is refused for it.
func TestWaitsForAnotherWriter(t *testing.T) {
	c := storetest.SQLite(t)
	s := storetest.Open(t, c)
	conn, err := raw(t, c).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, statement := range []string{"BEGIN IMMEDIATE", "INSERT INTO settings VALUES ('x', '1')"} {
		if _, err := conn.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() {
		done <- s.Update(t.Context(), func(w writer) error {
			value, err := w.Setting("x")
			return errors.Join(err, w.PutSetting("x", value+"2"))
		})
	}()
	same(t, s, "", func(r reader) (string, error) { return r.Setting("x") }) // readers don't wait
	select {
	case err := <-done:
		t.Fatalf("it didn't wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if _, err := conn.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	same(t, s, "12", func(r reader) (string, error) { return r.Setting("x") })
}
