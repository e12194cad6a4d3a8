package journal

import (
	"maps"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

// Told is the event's form on the wire to participants, with what is private.
func (e Event) Told(runID string) *eventv1.Event {
	if len(e.Private) > 0 {
		e.Attributes = maps.Clone(e.Attributes)
		if e.Attributes == nil {
			e.Attributes = map[string]string{}
		}
		maps.Copy(e.Attributes, e.Private)
	}
	return e.Proto(runID)
}

// Proto is the event's form on the wire to the host, without what is private.
func (e Event) Proto(runID string) *eventv1.Event {
	return &eventv1.Event{
		RunId:      runID,
		Source:     eventv1.Source_SOURCE_AGENT,
		Sequence:   e.Sequence,
		Time:       timestamppb.New(e.Time),
		Kind:       e.Kind,
		Message:    e.Message,
		Attributes: e.Attributes,
	}
}

// Proto is the line's form on the wire; dropped lines came before it.
func (l Line) Proto(runID string, dropped uint64) *eventv1.Log {
	return &eventv1.Log{
		RunId:   runID,
		Source:  eventv1.Source_SOURCE_AGENT,
		Time:    timestamppb.New(l.Time),
		Level:   levels[l.Level],
		Message: l.Message,
		Dropped: dropped,
	}
}

var levels = map[Level]eventv1.Level{
	Debug: eventv1.Level_LEVEL_DEBUG,
	Info:  eventv1.Level_LEVEL_INFO,
	Warn:  eventv1.Level_LEVEL_WARN,
	Error: eventv1.Level_LEVEL_ERROR,
}
