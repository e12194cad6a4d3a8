package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuoted(t *testing.T) {
	got := quoted([]string{"plain", "two words", "", "it's"})
	if want := []string{"plain", "'two words'", "''", `'it'\''s'`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// watching is a demo whose watch has printed lines and goes on, or has ended.
func watching(t *testing.T, printed string, ended bool) *demo {
	t.Helper()
	out := filepath.Join(t.TempDir(), "watch.out")
	if err := os.WriteFile(out, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{name: "watch", out: out, log: out, done: make(chan struct{})}
	if ended {
		close(p.done)
	}
	return &demo{ctx: t.Context(), watch: p}
}

func TestFollow(t *testing.T) {
	const (
		ready = `{"type":"event","kind":"agent.ready","message":"ready"}` + "\n"
		run   = `{"type":"run","state":"running","agent_address":"127.0.0.1:7020"}` + "\n"
		end   = `{"type":"run","state":"finished"}` + "\n"
	)
	is := func(kind string) func(entry) (bool, error) {
		return func(e entry) (bool, error) { return e.Kind == kind, nil }
	}
	d := watching(t, ready+run+`{"type":"ev`, false)
	if err := d.follow(time.Minute, "the Agent", is("agent.ready")); err != nil || d.seen != 1 {
		t.Errorf("%v, after %d lines", err, d.seen)
	}
	// It goes on behind that line, and waits for the end of the last one.
	if err := d.follow(time.Millisecond, "the Agent", is("agent.ready")); err == nil || !strings.Contains(err.Error(), "waited 1ms for the Agent") || d.seen != 2 {
		t.Errorf("%v, after %d lines", err, d.seen)
	}
	// What the watch printed before it ended counts.
	d = watching(t, run+end, true)
	if err := d.follow(time.Minute, "the end", func(e entry) (bool, error) { return e.State == "finished", nil }); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		printed string
		ended   bool
		says    string
	}{
		"the run fails":   {`{"type":"run","state":"failed","reason":"its VM was lost"}` + "\n", false, "its VM was lost"},
		"the VM ends":     {`{"type":"event","kind":"vm.exited","attributes":{"exit_status":"1","console":"panic"}}` + "\n", false, "panic"},
		"not JSON":        {"what\n", false, "what"},
		"the watch ended": {run, true, "the watch ended while the demo waited for the Agent"},
	} {
		if err := watching(t, c.printed, c.ended).follow(time.Minute, "the Agent", is("agent.ready")); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
