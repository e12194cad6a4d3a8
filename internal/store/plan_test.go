package store_test

import (
	"database/sql"
	"regexp"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

// scans are what a plan says of reading a table from one end to the other. The
// tables have names of one letter in queries; b0 and few are small results of
// others.
var scans = regexp.MustCompile(`(?m)^SCAN (.|[a-z]{4,})( |$)|Seq Scan`)

// namesAlone is a search in the index that has the names.
var namesAlone = regexp.MustCompile(`COVERING INDEX computations_list|Index Only Scan Backward using computations_list`)

// TestListsDoNotScan: what a page reads comes from an index, however much there
// is of other workspaces, users, states and runs.
func TestListsDoNotScan(t *testing.T) {
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		c := fresh(t)
		s := storetest.Open(t, c)
		f := storetest.Fill(t, s, 1000)
		if c.URL != "" {
			analyse(t, raw(t, c)) // as the server does by itself; SQLite never does
		}
		for _, p := range pages(f) {
			if p.name == "hosts" {
				continue // the whole of it
			}
			plans, err := s.Plans(t.Context(), p.read)
			if err != nil || len(plans) == 0 {
				t.Errorf("%s: %d plans, %v", p.name, len(plans), err)
			}
			for _, plan := range plans {
				if scans.MatchString(plan.How) {
					t.Errorf("%s scans:\n%s\n%s", p.name, plan.Query, plan.How)
				}
			}
		}
		// Events are found without the log.
		plans, err := s.Plans(t.Context(), func(r reader) error {
			_, err := r.Entries(f.Run, computations.EntryFilter{Types: []computations.EntryType{computations.EntryEvent}, Sources: []string{"service"}})
			return err
		})
		if err != nil || len(plans) != 1 || !strings.Contains(plans[0].How, "entries_events") {
			t.Errorf("a run's events: %+v, %v", plans, err)
		}
		// A search by name reads the names and no computations.
		if c.URL != "" {
			if _, err := raw(t, c).ExecContext(t.Context(), "VACUUM computations"); err != nil { // as the server does by itself
				t.Fatal(err)
			}
		}
		plans, err = s.Plans(t.Context(), func(r reader) error {
			_, err := r.Computations(computations.ComputationFilter{Workspace: f.Workspace, Text: "no such text"}, computations.Page{Limit: 50})
			return err
		})
		if err != nil || len(plans) != 1 || !namesAlone.MatchString(plans[0].How) {
			t.Errorf("a search by name: %+v, %v", plans, err)
		}
		// The test would see one.
		plans, err = s.Plans(t.Context(), func(r reader) error { _, err := r.Hosts(); return err })
		if err != nil || len(plans) != 1 || !scans.MatchString(plans[0].How) {
			t.Errorf("the list of all hosts isn't a scan: %+v, %v", plans, err)
		}
	})
}

func analyse(t testing.TB, db *sql.DB) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), "ANALYZE"); err != nil {
		t.Fatal(err)
	}
}
