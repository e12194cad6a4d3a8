// Package events is how events stand in a spool. Run, source and sequence are
// the record's key and not repeated in its payload, which is JSON.
package events

import (
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/internal/spool"
)

// Sources; their numbers are those of cocos.event.v1.Source.
const (
	Agent   spool.Source = 1
	Shim    spool.Source = 2
	Manager spool.Source = 3
)

// Event is one event of a run; see cocos.event.v1.Event. Source and Sequence
// are the record's.
type Event struct {
	Source     spool.Source      `json:"-"`
	Sequence   uint64            `json:"-"`
	Time       time.Time         `json:"time"`
	Kind       string            `json:"kind"`
	Message    string            `json:"message,omitzero"`
	Attributes map[string]string `json:"attributes,omitzero"`
}

// Encode returns e as a record's payload.
func Encode(e Event) ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encoding event %q: %w", e.Kind, err)
	}
	return b, nil
}

// Decode returns the event of a record.
func Decode(r spool.Record) (Event, error) {
	var e Event
	if err := json.Unmarshal(r.Payload, &e); err != nil {
		return Event{}, fmt.Errorf("decoding event %d of source %d: %w", r.Sequence, r.Source, err)
	}
	e.Source, e.Sequence = r.Source, r.Sequence
	return e, nil
}
