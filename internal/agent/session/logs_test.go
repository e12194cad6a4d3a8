package session_test

import (
	"fmt"
	"io"
	"log/slog"
	"testing"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestLogsGoOutAndDropsAreCounted(t *testing.T) {
	got := make(chan error, 1)
	o := options(newShim(t, func(s stream) error {
		if err := hello(s, launch(t)); err != nil {
			return err
		}
		var seen uint64
		for seen < 10_000 {
			m, err := s.Recv()
			if err != nil {
				got <- err
				return err
			}
			l := m.GetLog()
			seen += l.GetDropped() + 1
			if l == nil || l.GetMessage() != fmt.Sprint("line ", seen) || l.GetRunId() != launch(t).RunId {
				got <- fmt.Errorf("got %v as line %d", m, seen)
				return nil
			}
		}
		got <- nil
		return idle(s)
	}))
	log := slog.New(o.Journal.Handler(slog.LevelInfo))
	for i := range 10_000 { // more than the journal keeps, before anybody listens
		log.Info(fmt.Sprint("line ", i+1))
	}
	open(t, o)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// What an agent logs in a VM that participants appraise stays in it: the host
// gets one line that says so, the events without what is private in them, and
// what every party let out.
func TestPrivateLogs(t *testing.T) {
	private := frozen(t).Manifest
	private.TEE, private.Approvals = manifest.TEESim, nil
	f, err := manifest.Freeze(private)
	if err != nil {
		t.Fatal(err)
	}
	l := launch(t)
	l.Manifest, l.Approvals = f.Raw, nil
	type item = *guestv1.SessionRequest
	got := make(chan item, 16)
	o := options(newShim(t, func(s stream) error {
		if err := hello(s, l); err != nil {
			return err
		}
		defer close(got)
		for {
			m, err := s.Recv()
			if err != nil {
				return nil
			}
			got <- m
			if err := ack(s, m.GetEvent().GetSequence()); err != nil {
				return err
			}
		}
	}))
	log := slog.New(o.Journal.Handler(slog.LevelDebug))
	log.Error("before the launch", "secret", 1)
	s, _ := open(t, o)
	for i := range 3 {
		log.Error("after it", "secret", i)
		o.Journal.EmitPrivate("kind", fmt.Sprint(i), map[string]string{"public": "1"}, map[string]string{"limit": "secret"})
	}
	if _, err := io.WriteString(o.Journal.Output("stdout"), "let out\n"); err != nil {
		t.Fatal(err)
	}
	o.Journal.Emit("kind", "last", nil)
	if err := s.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	var lines []string
	events := 0
	take := func(m item) {
		if m.GetEvent() != nil {
			events++
			if a := m.GetEvent().GetAttributes(); len(a) > 1 || a["limit"] != "" {
				t.Errorf("the host gets an event with %v", a)
			}
		} else {
			lines = append(lines, m.GetLog().GetMessage())
		}
	}
	// Flush waits for events alone.
	for ctx := testContext(t); len(lines) < 2; {
		select {
		case m := <-got:
			take(m)
		case <-ctx.Done():
			t.Fatalf("%d events, lines %q", events, lines)
		}
	}
	s.Close()
	for m := range got {
		take(m)
	}
	if events != 4 || len(lines) != 2 || lines[0] != session.Private || lines[1] != "stdout: let out" {
		t.Errorf("%d events, lines %q", events, lines)
	}
	if all, _ := o.Journal.LinesAfter(0, 16); len(all) != 5 {
		t.Errorf("participants read %d lines; want 5", len(all))
	}
}
