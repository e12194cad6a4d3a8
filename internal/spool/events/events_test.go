package events

import (
	"maps"
	"testing"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
)

func TestRoundTrip(t *testing.T) {
	for name, e := range map[string]Event{
		"full": {
			Time: time.Date(2026, 11, 24, 1, 2, 3, 4, time.UTC), Kind: "agent.ready", Message: "a \"line\"\nand\x00more é",
			Attributes: map[string]string{"agent_key": "sha256:ab", "": "empty"},
		},
		"bare": {Kind: "vm.exited"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(spool.Record{Source: Agent, Sequence: 7, Payload: b})
			if err != nil {
				t.Fatal(err)
			}
			if got.Source != Agent || got.Sequence != 7 || got.Kind != e.Kind || got.Message != e.Message ||
				!got.Time.Equal(e.Time) || !maps.Equal(got.Attributes, e.Attributes) {
				t.Errorf("got %+v, want %+v", got, e)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Encode(Event{Kind: "a.b", Message: "\xff"}); err == nil {
		t.Error("text that is not UTF-8 was encoded")
	}
	for _, payload := range []string{"", "{", `{"kind":1}`, `{"kind":"a","kind":"b"}`, "{}x"} {
		if e, err := Decode(spool.Record{Source: Shim, Sequence: 3, Payload: []byte(payload)}); err == nil {
			t.Errorf("%q was decoded as %+v", payload, e)
		}
	}
}

func TestSourcesAreThoseOfTheProtocol(t *testing.T) {
	for s, p := range map[spool.Source]eventv1.Source{
		Agent: eventv1.Source_SOURCE_AGENT, Shim: eventv1.Source_SOURCE_SHIM, Manager: eventv1.Source_SOURCE_MANAGER,
	} {
		if int32(s) != int32(p) {
			t.Errorf("%v is %d here", p, s)
		}
	}
}
