// Package storetest gives tests databases: SQLite files, and databases on a real
// PostgreSQL server that it starts once in each test program and that ends with
// it. Where PostgreSQL isn't installed, tests fail and say so.
package storetest

import (
	"path/filepath"
	"testing"

	"github.com/ultravioletrs/cocos/internal/store"
)

// Each runs f once for each kind of database; new names a new, empty one.
func Each(t *testing.T, f func(t *testing.T, fresh func(testing.TB) store.Config)) {
	t.Helper()
	for _, d := range []struct {
		name  string
		fresh func(testing.TB) store.Config
	}{{"sqlite", SQLite}, {"postgres", PostgreSQL}} {
		t.Run(d.name, func(t *testing.T) { f(t, d.fresh) })
	}
}

// SQLite names a new file.
func SQLite(t testing.TB) store.Config {
	return store.Config{Path: filepath.Join(t.TempDir(), "cocos.db")}
}

// Open opens it, and closes it when the test ends.
func Open(t testing.TB, c store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
