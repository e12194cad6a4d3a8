package qemu

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// flooding is a monitor that greets, then writes what flood makes of the
// connection, and answers commands from another goroutine of its own.
func flooding(t *testing.T, flood func(say func([]byte) error)) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	var writing sync.Mutex
	say := func(b []byte) error {
		writing.Lock()
		defer writing.Unlock()
		_, err := theirs.Write(b)
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if say([]byte(hello+"\n")) != nil {
			return
		}
		id := byte('1')
		lines := bufio.NewScanner(theirs)
		if !lines.Scan() || say([]byte(`{"return": {}, "id": 1}`+"\n")) != nil {
			return
		}
		wg.Go(func() { flood(say) })
		for lines.Scan() {
			id++
			if say([]byte(`{"return": {"status": "running"}, "id": `+string(id)+"}\n")) != nil {
				return
			}
		}
	})
	t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close(); wg.Wait() })
	return ours
}

func TestMillionEvents(t *testing.T) {
	const events = 1_000_000
	one := []byte(`{"event": "NONSENSE"}` + "\n")
	batch := bytes.Repeat(one, 1000)
	var got int
	all := make(chan struct{})
	q, err := NewQMP(t.Context(), flooding(t, func(say func([]byte) error) {
		for range events / 1000 {
			if say(batch) != nil {
				return
			}
		}
	}), func(Event) {
		if got++; got == events {
			close(all)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for range 5 {
		if s, err := q.Status(t.Context()); err != nil || s != "running" {
			t.Fatalf("in the flood: %q, %v", s, err)
		}
	}
	select {
	case <-all:
	case <-q.Done():
		t.Fatalf("the session ended: %v", q.Err())
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 64<<20 {
		t.Errorf("%d bytes are kept", m.HeapAlloc)
	}
}

func TestEndlessFlood(t *testing.T) {
	// Long events count as many: the end comes sooner.
	one := []byte(`{"event": "NONSENSE", "data": "` + strings.Repeat("x", maxQMPLine-1000) + `"}` + "\n")
	stopped := make(chan error, 1)
	q, err := NewQMP(t.Context(), flooding(t, func(say func([]byte) error) {
		for {
			if err := say(one); err != nil {
				stopped <- err
				return
			}
		}
	}), func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	<-q.Done()
	if err := q.Err(); err == nil || !strings.Contains(err.Error(), "flood of events") {
		t.Errorf("it ended with %v", err)
	}
	if err := <-stopped; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the other end goes on: %v", err)
	}
	if err := q.Quit(t.Context()); err == nil || !strings.Contains(err.Error(), "flood of events") {
		t.Errorf("a command after that: %v", err)
	}
}

func TestEndlessLine(t *testing.T) {
	stopped := make(chan struct{})
	q, err := NewQMP(t.Context(), flooding(t, func(say func([]byte) error) {
		for say(bytes.Repeat([]byte("x"), 4096)) == nil {
		}
		close(stopped)
	}), func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	<-q.Done()
	if !errors.Is(q.Err(), bufio.ErrTooLong) {
		t.Errorf("it ended with %v", q.Err())
	}
	<-stopped
}

func TestBudget(t *testing.T) {
	start := time.Now()
	for name, c := range map[string]struct {
		spent int
		after time.Duration
		want  bool
	}{
		"all at once":       {eventBurst, 0, true},
		"one too many":      {eventBurst + 1, 0, false},
		"a second's more":   {eventBurst + eventRate, time.Second, true},
		"and one":           {eventBurst + eventRate + 1, time.Second, false},
		"a clock set back":  {eventBurst, -time.Hour, true},
		"and one more then": {eventBurst + 1, -time.Hour, false},
	} {
		b := budget{left: eventBurst, at: start}
		first := min(c.spent, eventBurst)
		if ok := b.spend(first, start); !ok {
			t.Fatalf("%s: no %d", name, first)
		}
		if got := b.spend(c.spent-first, start.Add(c.after)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// What is not spent does not add up for ever.
	b := budget{left: eventBurst, at: start}
	if b.spend(eventBurst+1, start.Add(1000*time.Hour)) {
		t.Error("more than the burst at once")
	}
}
