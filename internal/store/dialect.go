package store

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/pressly/goose/v3"
)

// dialect is where the two databases' SQL differs.
type dialect interface {
	name() string
	goose() goose.Dialect
	// words stand in migrations for the database's own.
	words() *strings.Replacer
	// hasTable counts tables named $1.
	hasTable() string
	// contains is the condition that a text has part, a text in small letters, in
	// it; any: the text may have letters in capitals. ascii tells of part.
	contains(text, part string, any, ascii bool) string
	// using stands between a table and WHERE: SQLite takes the key of a table for
	// better than any index that begins alike.
	using(index string) string
	// forUpdate ends a SELECT whose rows others may not change until the end.
	forUpdate() string
	// isAnyOf is the condition that a column is in a list, which list makes an
	// argument.
	isAnyOf(column, list string) string
	list([]string) any
}

type sqliteDialect struct{}

func (sqliteDialect) name() string         { return "sqlite" }
func (sqliteDialect) goose() goose.Dialect { return goose.DialectSQLite3 }
func (sqliteDialect) words() *strings.Replacer {
	return strings.NewReplacer(" BYTES ", " BLOB ", " BYTES,", " BLOB,", "WITHOUT_ROWID", "WITHOUT ROWID")
}
func (sqliteDialect) hasTable() string {
	return "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1"
}

// SQLite's own lower knows ASCII only; fold is ours, and slower.
func (sqliteDialect) contains(text, part string, any, ascii bool) string {
	switch {
	case any && ascii:
		text = "lower(" + text + ")"
	case any:
		text = "fold(" + text + ")"
	}
	return "instr(" + text + ", " + part + ") > 0"
}

func (sqliteDialect) using(index string) string { return "INDEXED BY " + index + " " }

// The one writer is alone as it is.
func (sqliteDialect) forUpdate() string { return "" }

func (sqliteDialect) isAnyOf(column, list string) string {
	return column + " IN (SELECT value FROM json_each(" + list + "))"
}

func (sqliteDialect) list(words []string) any {
	b, err := json.Marshal(words, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(err) // texts can be written
	}
	return string(b)
}

type postgresDialect struct{}

func (postgresDialect) name() string         { return "postgres" }
func (postgresDialect) goose() goose.Dialect { return goose.DialectPostgres }
func (postgresDialect) words() *strings.Replacer {
	return strings.NewReplacer(" BYTES ", " BYTEA ", " BYTES,", " BYTEA,", " WITHOUT_ROWID", "")
}
func (postgresDialect) hasTable() string {
	return "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1"
}
func (postgresDialect) contains(text, part string, any, _ bool) string {
	if any {
		text = "lower(" + text + ")"
	}
	return "strpos(" + text + ", " + part + ") > 0"
}
func (postgresDialect) using(string) string { return "" }

func (postgresDialect) forUpdate() string { return " FOR UPDATE" }

func (postgresDialect) isAnyOf(column, list string) string { return column + " = ANY(" + list + ")" }
func (postgresDialect) list(words []string) any            { return words }
