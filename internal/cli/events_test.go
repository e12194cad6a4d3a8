package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

func someEvents(n int) []*eventv1.Event {
	es := make([]*eventv1.Event, n)
	for i := range es {
		es[i] = &eventv1.Event{
			RunId: "r", Source: eventv1.Source_SOURCE_AGENT, Sequence: uint64(i + 1), Kind: "agent.state",
			Time: timestamppb.New(time.Unix(1e9, 0)), Message: "it goes on", Attributes: map[string]string{"to": "Running", "from": "AwaitingInputs"},
		}
	}
	return es
}

func TestEventsComeOnceAndInOrder(t *testing.T) {
	u := newUser(t)
	f := &fakeAgent{events: someEvents(20), eventCuts: []int{1, 5, 6, 20}}
	f.serve(t)
	o := u.with(f, "events", "--follow", "--role", "consumer", "--json")
	o.wants(t, ExitOK)
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	if len(lines) != 20 {
		t.Fatalf("%d lines, want 20:\n%s", len(lines), o.stdout)
	}
	for i, line := range lines {
		var e eventInfo
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Sequence != uint64(i+1) || e.Source != "agent" || e.Attributes["to"] != "Running" {
			t.Errorf("line %d: %q (%v)", i, line, err)
		}
	}
	if f.roles[0] != "consumer" {
		t.Errorf("called as %q", f.roles[0])
	}
}

func TestEventsAfter(t *testing.T) {
	u := newUser(t)
	f := &fakeAgent{events: someEvents(3)}
	f.serve(t)
	o := u.with(f, "events", "--after", "2", "--role", "approver")
	o.wants(t, ExitOK)
	if want := "2001-09-09T01:46:40Z agent 3 agent.state: it goes on from=AwaitingInputs to=Running\n"; o.stdout != want {
		t.Errorf("got %q, want %q", o.stdout, want)
	}
}

func TestAttributesAreToldApart(t *testing.T) {
	e := eventInfo{Source: "agent", Sequence: 1, Kind: "k", Attributes: map[string]string{"a": "x to=Released", "b": "", "c": "plain"}}
	if got, want := e.text(), `0001-01-01T00:00:00Z agent 1 k a="x to=Released" c=plain`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEventsSayWhereToGoOn(t *testing.T) {
	u := newUser(t)
	f := &fakeAgent{events: someEvents(3)}
	f.serve(t)
	for range maxTries + 2 {
		f.eventCuts = append(f.eventCuts, 2)
	}
	f.always = true
	u.with(f, "events", "--follow", "--role", "approver").wants(t, ExitFailure, "run it again with --after 2")
}

func TestHostileEventsAndLogsAreHarmless(t *testing.T) {
	u := newUser(t)
	evil := "\x1b]0;owned\x07\n2001-09-09T01:46:40Z agent 9 agent.state: forged"
	f := &fakeAgent{
		events: []*eventv1.Event{{Sequence: 1, Kind: evil, Message: evil, Attributes: map[string]string{evil: evil}}},
		logs:   []*eventv1.Log{{Message: evil, Dropped: 3, Level: eventv1.Level_LEVEL_WARN, Source: eventv1.Source_SOURCE_AGENT}, {Message: "second"}},
	}
	f.serve(t)
	for i, cmd := range []string{"events", "logs"} {
		o := u.with(f, cmd, "--role", "approver")
		o.wants(t, ExitOK)
		if n := strings.Count(o.stdout, "\n"); n != i+1 || strings.ContainsAny(o.stdout, "\x1b\x07") {
			t.Errorf("%s printed %q", cmd, o.stdout)
		}
	}
	o := u.with(f, "logs", "--role", "approver", "--json")
	o.wants(t, ExitOK, `"dropped":3`, `"level":"warn"`, fmt.Sprintf(`"message":%q`, "second"))
}
