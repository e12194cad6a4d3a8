package store_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

const soon = 30 * time.Second

func heard(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(soon):
		t.Fatal("no signal came")
	}
}

func silent(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
		t.Error("a signal came")
	default:
	}
}

// TestSignals between two stores, as of two processes, and within one.
func TestSignals(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		here, stopHere := a.Listen("queue")
		there, stopThere := b.Listen("queue")
		other, stopOther := b.Listen("run:1")
		defer stopOther()
		put(t, a, func(w writer) error { w.Signal("queue"); return nil })
		heard(t, here)
		heard(t, there)

		// Not before the commit, and not without one.
		update(t, a, func(w writer) error {
			w.Signal("queue")
			silent(t, here)
			return nil
		})
		heard(t, here)
		heard(t, there)
		refused(t, a, errors.ErrUnsupported, func(w writer) error { w.Signal("queue"); return errors.ErrUnsupported })

		// Several become one, and whoever doesn't listen any more holds nobody up.
		for range 100 {
			put(t, a, func(w writer) error { w.Signal("queue"); w.Signal("nobody's"); return nil })
		}
		heard(t, here)
		heard(t, there)
		stopHere()
		put(t, b, func(w writer) error { w.Signal("queue"); w.Signal("run:1"); return nil })
		heard(t, other)
		heard(t, there)
		silent(t, here)
		stopThere()
		silent(t, other)
	})
}

// TestManySignalsAtOnce: more than the server takes in one notification are all
// heard, each by who listens for it.
func TestManySignalsAtOnce(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		const many = 1000
		var waiting []<-chan struct{}
		for i := range many {
			c, stop := b.Listen(topic(i))
			defer stop()
			waiting = append(waiting, c)
		}
		other, stop := b.Listen("run:")
		defer stop()
		put(t, a, func(w writer) error {
			for i := range many {
				w.Signal(topic(i))
			}
			return nil
		})
		for _, c := range waiting {
			heard(t, c)
		}
		silent(t, other)
	})
}

func topic(i int) string {
	return computations.RunTopic(computations.ID(fmt.Sprintf("01a227e0-c6d4-7e20-8c30-%012d", i)))
}

// TestSignalComesAfterTheChange: whoever is told finds what it was told of.
func TestSignalComesAfterTheChange(t *testing.T) {
	eachShared(t, func(t *testing.T, a, b *store.Store) {
		c, stop := b.Listen("settings")
		defer stop()
		for _, value := range []string{"1", "2", "3", "4", "5"} {
			put(t, a, func(w writer) error { w.Signal("settings"); return w.PutSetting("x", value) })
			heard(t, c)
			same(t, b, value, func(r reader) (string, error) { return r.Setting("x") })
		}
	})
}

// TestLostSignals: a listener is told when it may have missed something, and is
// told again afterwards.
func TestLostSignals(t *testing.T) {
	c := storetest.PostgreSQL(t)
	c.Log = slog.New(slog.DiscardHandler) // of lost connections
	a, b := storetest.Open(t, c), storetest.Open(t, c)
	signals, stop := b.Listen("queue")
	defer stop()
	conn, err := pgx.Connect(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var ended int
	err = conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE 'LISTEN%'`).Scan(&ended)
	if err != nil || ended != 2 {
		t.Fatalf("%d connections ended, %v", ended, err)
	}
	heard(t, signals)
	for end := time.Now().Add(soon); ; {
		put(t, a, func(w writer) error { w.Signal("queue"); return nil })
		select {
		case <-signals:
			return
		case <-time.After(10 * time.Millisecond):
			if time.Now().After(end) {
				t.Fatal("no signal comes any more")
			}
		}
	}
}

// TestLostConnections: connections that the server has ended are replaced, and
// what was begun on them is begun again.
func TestLostConnections(t *testing.T) {
	c := storetest.PostgreSQL(t)
	c.Log = slog.New(slog.DiscardHandler) // of lost connections
	s := storetest.Open(t, c)
	put(t, s, func(w writer) error { return w.PutSetting("x", "1") })
	conn, err := pgx.Connect(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
	for range 3 {
		if _, err := conn.Exec(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		var value string
		view(t, s, func(r reader) (err error) { value, err = r.Setting("x"); return err })
		if value != "1" {
			t.Fatalf("got %q", value)
		}
		times := 0
		update(t, s, func(w writer) error {
			if times++; times == 1 {
				if err := w.PutSetting("x", "2"); err != nil {
					t.Error(err)
				}
				if _, err := conn.Exec(t.Context(), end); err != nil {
					t.Error(err)
				}
			}
			return w.PutSetting("y", "3")
		})
		if times < 2 {
			t.Error("it wasn't begun again")
		}
		same(t, s, "1", func(r reader) (string, error) { return r.Setting("x") })
		same(t, s, "3", func(r reader) (string, error) { return r.Setting("y") })
	}
}
