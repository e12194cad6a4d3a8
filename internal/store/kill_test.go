package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

// childEnv tells this test program that it is the process that gets killed.
const childEnv = "COCOS_TEST_STORE_PATH"

// TestMain is the writer in the process that TestAcknowledgedIsKept kills: it says
// each number when Update has returned for it.
func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	c := store.Config{Path: path}
	if os.Getenv(childEnv+"_URL") != "" {
		c = store.Config{URL: path}
	}
	if err := write(context.Background(), c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(ctx context.Context, c store.Config) error {
	s, err := store.Open(ctx, c)
	if err != nil {
		return err
	}
	for n := int64(1); ; n++ {
		err := s.Update(ctx, func(w writer) error {
			_, err := w.Append([]entry{event("run-1", "agent", n)})
			return errors.Join(err, w.AppendAudit(computations.AuditEntry{At: now, Action: "x"}))
		})
		if err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestAcknowledgedIsKept: a process is killed while it writes; the next one finds
// what Update returned for, nothing but whole transactions, and no lock.
func TestAcknowledgedIsKept(t *testing.T) {
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		c := fresh(t)
		s, err := store.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		newWorld(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		acknowledged := 0
		for range 3 {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+c.Path+c.URL)
			if c.URL != "" {
				cmd.Env = append(cmd.Env, childEnv+"_URL=1")
			}
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said := 0
			for lines := bufio.NewScanner(out); lines.Scan(); said++ {
				if said == 30 {
					if err := cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
			cmd.Wait() // it was killed
			if said < 30 {
				t.Fatalf("it ended after %d", said)
			}
			acknowledged = max(acknowledged, said)
			s := storetest.Open(t, c)
			view(t, s, func(r reader) error {
				entries, err := r.Entries("run-1", computations.EntryFilter{})
				if err != nil {
					return err
				}
				chain, err := r.AuditChain(0, 1000)
				if len(entries) < acknowledged || len(entries) > acknowledged+1 {
					t.Errorf("%d events were acknowledged, %d are there", acknowledged, len(entries))
				}
				for i, e := range entries {
					if e.Position != int64(i+1) || e.Sequence != e.Position {
						t.Errorf("position %d has %+v", i+1, e)
					}
				}
				for i, e := range chain {
					if e.Sequence != int64(i+1) || e.Hash != e.Sum() {
						t.Errorf("entry %d of the log is %+v", i+1, e)
					}
				}
				return err
			})
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
