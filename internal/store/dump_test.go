package store_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

// TestDocumentedDump runs the two commands that docs/computations.md gives for
// PostgreSQL, and finds in the second database what was in the first.
func TestDocumentedDump(t *testing.T) {
	docs, err := os.ReadFile("../../docs/computations.md")
	if err != nil {
		t.Fatal(err)
	}
	from, to, dir := storetest.PostgreSQL(t), storetest.EmptyPostgreSQL(t), t.TempDir()
	open := func(c store.Config) *store.Store {
		t.Helper()
		s, err := store.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	first := open(from)
	filled := storetest.Fill(t, first, 50)
	run(t, dir, documented(t, string(docs), "pg_dump"), from.URL)
	run(t, dir, documented(t, string(docs), "pg_restore"), to.URL)
	type found struct {
		audit   []computations.AuditEntry
		entries []computations.Entry
		hosts   []computations.Host
	}
	look := func(s *store.Store) (f found) {
		t.Helper()
		err := s.View(t.Context(), func(r computations.Reader) (err error) {
			if f.audit, err = r.AuditChain(0, 100); err != nil {
				return err
			}
			if f.entries, err = r.Entries(filled.Run, computations.EntryFilter{}); err != nil {
				return err
			}
			f.hosts, err = r.Hosts()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	want, got := look(first), look(open(to))
	if len(want.audit) == 0 || len(want.entries) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// documented is the command line of a program in the documentation.
func documented(t *testing.T, docs, program string) string {
	t.Helper()
	for line := range strings.Lines(docs) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "$ "+program+" ") {
			return line[2:]
		}
	}
	t.Fatalf("the documentation has no line of %s", program)
	return ""
}

// run runs a documented command line in a folder.
func run(t *testing.T, dir, line, url string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "COMPUTATIONS_DATABASE="+url, "PATH="+storetest.Programs(t)+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}
