package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": []}}`

// monitor is QEMU's end: it greets and answers each command with what answer
// makes of it.
func monitor(t *testing.T, greeting string, answer func(command string, id uint64) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer theirs.Close()
		if _, err := fmt.Fprintln(theirs, greeting); err != nil {
			return
		}
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			var c struct {
				Execute string
				ID      uint64
			}
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				t.Error(err)
				return
			}
			text := answer(c.Execute, c.ID)
			if text == "" {
				return
			}
			if _, err := fmt.Fprintln(theirs, text); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { _ = ours.Close(); wg.Wait() })
	return ours
}

func done(_ string, id uint64) string { return fmt.Sprintf(`{"return": {}, "id": %d}`, id) }

func TestQMP(t *testing.T) {
	var events []string
	conn := monitor(t, hello, func(command string, id uint64) string {
		switch command {
		case "query-status":
			return fmt.Sprintf(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}`+"\n"+`{"return": {"status": "running", "running": true}, "id": %d}`, id)
		case "stop":
			return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "not now"}, "id": %d}`, id)
		case "quit":
			return done(command, id) + "\n" + `{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}`
		}
		return done(command, id)
	})
	q, err := NewQMP(t.Context(), conn, func(e Event) { events = append(events, e.Name+string(e.Data)) })
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if s, err := q.Status(ctx); err != nil || s != "running" {
		t.Errorf("status %q, %v", s, err)
	}
	var refused *QMPError
	if err := q.Pause(ctx); !errors.As(err, &refused) || refused.Class != "GenericError" || !strings.Contains(err.Error(), "stop: not now") {
		t.Errorf("got %v", err)
	}
	for _, f := range []func(context.Context) error{q.Resume, q.PowerDown, q.Quit} {
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	}
	// Many at once get each its own answer.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if s, err := q.Status(ctx); err != nil || s != "running" {
				t.Errorf("status %q, %v", s, err)
			}
		})
	}
	wg.Wait()
	_ = q.Close()
	if err := q.Quit(ctx); err == nil {
		t.Error("a closed session took a command")
	}
	if len(events) < 2 || events[0] != "RESUME" || !strings.HasPrefix(events[1], `SHUTDOWN{"guest": false`) {
		t.Errorf("events %q", events)
	}
}

func TestQMPThatGoesWrong(t *testing.T) {
	for name, c := range map[string]struct {
		greeting string
		answer   func(string, uint64) string
		opens    bool
	}{
		"no greeting":           {`{"return": {}}`, done, false},
		"not JSON":              {`HTTP/1.1 400 Bad Request`, done, false},
		"hangs up":              {hello, func(string, uint64) string { return "" }, false},
		"refuses":               {hello, func(_ string, id uint64) string { return fmt.Sprintf(`{"error": {"desc": "no"}, "id": %d}`, id) }, false},
		"another answer":        {hello, func(_ string, id uint64) string { return fmt.Sprintf(`{"return": {}, "id": %d}`, id+1) }, false},
		"not JSON, later":       {hello, later("}{"), true},
		"hangs up later":        {hello, later(""), true},
		"a line without an end": {hello, later(strings.Repeat(" ", maxQMPLine+1)), true},
		"another type":          {hello, later(`{"return": "x", "id": 2}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := NewQMP(t.Context(), monitor(t, c.greeting, c.answer), func(Event) {})
			if (err == nil) != c.opens {
				t.Fatalf("opening: %v", err)
			}
			if err != nil {
				return
			}
			if s, err := q.Status(t.Context()); err == nil {
				t.Errorf("got %q", s)
			}
			_ = q.Close()
		})
	}
}

// later answers the negotiation as it should and everything else with text.
func later(text string) func(string, uint64) string {
	return func(command string, id uint64) string {
		if command == "qmp_capabilities" {
			return done(command, id)
		}
		return text
	}
}

func TestQMPThatIsSlow(t *testing.T) {
	late := make(chan struct{})
	q, err := NewQMP(t.Context(), monitor(t, hello, func(command string, id uint64) string {
		if command == "stop" {
			<-late
		}
		return done(command, id)
	}), func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := q.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(late)
	// The answer that comes late disturbs nobody.
	if err := q.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	_ = q.Close()

	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := NewQMP(ctx, ours, func(Event) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a monitor that says nothing: %v", err)
	}
}
