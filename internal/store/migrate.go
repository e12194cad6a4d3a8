package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

const versionTable = "schema_versions"

// rendered is the migrations for one database.
type rendered struct {
	fs.FS
	dialect dialect
}

func (r rendered) Open(name string) (fs.File, error) {
	f, err := r.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	b, err := io.ReadAll(f)
	return renderedFile{f, strings.NewReader(render(string(b), r.dialect))}, err
}

type renderedFile struct {
	fs.File
	text io.Reader
}

func (f renderedFile) Read(b []byte) (int, error) { return f.text.Read(b) }

// render leaves out the lines between "-- +only" of another database and "--
// +both", and says the words that stand for the database's own.
func render(migration string, d dialect) string {
	var out strings.Builder
	skip := false
	for line := range strings.Lines(migration) {
		if only, ok := strings.CutPrefix(line, "-- +only "); ok {
			skip = strings.TrimSpace(only) != d.name()
			continue
		}
		if strings.HasPrefix(line, "-- +both") {
			skip = false
			continue
		}
		if !skip {
			out.WriteString(line)
		}
	}
	return d.words().Replace(out.String())
}

// migrate brings the schema up to date, or with readOnly refuses one that isn't.
// One that is newer than this program is refused.
func migrate(ctx context.Context, db *sql.DB, d dialect, readOnly bool) error {
	p, err := provider(db, d)
	if err != nil {
		return err
	}
	current, newest, err := versions(ctx, db, d, p)
	switch {
	case err != nil:
		return err
	case current == newest:
		return nil
	case readOnly:
		return fmt.Errorf("its schema has version %d and this program needs %d: start the service once, which brings it up to date", current, newest)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bringing the schema from version %d to %d: %w", current, newest, err)
	}
	return nil
}

// knownSchema refuses what is no database of this service, or of a newer one.
func knownSchema(ctx context.Context, db *sql.DB, d dialect) error {
	p, err := provider(db, d)
	if err != nil {
		return err
	}
	current, _, err := versions(ctx, db, d, p)
	if err == nil && current == 0 {
		err = errors.New("it is no database of cocos-computations")
	}
	return err
}

func provider(db *sql.DB, d dialect) (*goose.Provider, error) {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	p, err := goose.NewProvider(d.goose(), db, rendered{sub, d}, goose.WithTableName(versionTable),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	return p, nil
}

// versions are the database's, zero for an empty one, and this program's.
func versions(ctx context.Context, db *sql.DB, d dialect, p *goose.Provider) (current, newest int64, err error) {
	list := p.ListSources()
	newest = list[len(list)-1].Version
	var tables int
	if err := db.QueryRowContext(ctx, d.hasTable(), versionTable).Scan(&tables); err != nil {
		return 0, 0, fmt.Errorf("looking for the schema's version: %w", err)
	}
	if tables > 0 {
		err := db.QueryRowContext(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM "+versionTable).Scan(&current)
		if err != nil {
			return 0, 0, fmt.Errorf("reading the schema's version: %w", err)
		}
	}
	if current > newest {
		return 0, 0, fmt.Errorf("its schema has version %d and this program knows up to %d: a newer cocos-computations has used it; run that version or a later one, or restore a backup from before", current, newest)
	}
	return current, newest, nil
}
