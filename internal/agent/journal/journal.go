// Package journal is what the agent tells: its events and its log lines, kept
// in memory for as long as the VM lives.
//
// Events are numbered from 1 without gaps and are never dropped; the agent's
// own code emits a number of them that the manifest bounds, and nothing that a
// caller can repeat at will becomes one. Log lines are bounded in number and
// size; the oldest go first, and whoever reads learns how many went.
//
// The journal has many readers (the session to the shim, participants that
// follow) and none of them can hold it up: a reader asks for what comes after a
// number, and waits on Changed for more. Everything here leaves the VM: what an
// algorithm prints comes here only where every party approved it (Output), and
// what an event has for participants alone is marked so (Private).
package journal

import (
	"maps"
	"sync"
	"time"
)

// Bounds of the log, and of each text of an event: the host takes no event that
// is longer than a few of these.
const (
	maxLines     = 4096
	maxLineBytes = 4 << 10
)

// Event is one of the kinds listed in internal/vm, with source "agent".
type Event struct {
	// Sequence counts from 1.
	Sequence   uint64
	Time       time.Time
	Kind       string
	Message    string
	Attributes map[string]string
	// Private are attributes for participants, whom the agent tells them itself:
	// the host never has them.
	Private map[string]string
}

// Level of a log line, in the order of slog's levels.
type Level int

// The levels.
const (
	Debug Level = iota + 1
	Info
	Warn
	Error
)

// Line is one log line of at most 4 KiB, without control characters.
type Line struct {
	// Output: an algorithm printed it, and every party approved that the host's
	// operator reads it.
	Output bool
	// Sequence counts from 1, dropped lines included.
	Sequence uint64
	Time     time.Time
	Level    Level
	Message  string
}

// Journal holds both. Use New.
type Journal struct {
	now func() time.Time

	mu      sync.Mutex
	events  []Event
	lines   []Line // a window of the last maxLines
	written uint64 // lines ever written
	changed chan struct{}
}

// New makes an empty journal; now is the clock of its entries.
func New(now func() time.Time) *Journal {
	return &Journal{now: now, changed: make(chan struct{})}
}

// Emit appends an event and returns it with its number. Texts of more than 4 KiB
// are cut.
func (j *Journal) Emit(kind, message string, attributes map[string]string) Event {
	return j.EmitPrivate(kind, message, attributes, nil)
}

// EmitPrivate is Emit with attributes that the host does not get.
func (j *Journal) EmitPrivate(kind, message string, attributes, private map[string]string) Event {
	attributes, private = shortValues(attributes), shortValues(private)
	j.mu.Lock()
	defer j.mu.Unlock()
	e := Event{
		Sequence:   uint64(len(j.events)) + 1,
		Time:       j.now(),
		Kind:       kind,
		Message:    short(message),
		Attributes: attributes,
		Private:    private,
	}
	j.events = append(j.events, e)
	j.wake()
	return e
}

func shortValues(m map[string]string) map[string]string {
	m = maps.Clone(m)
	for k, v := range m {
		m[k] = short(v)
	}
	return m
}

func (j *Journal) log(l Line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if l.Time.IsZero() {
		l.Time = j.now()
	}
	j.written++
	if len(j.lines) == maxLines {
		// One copy per maxLines/4 lines.
		j.lines = append(j.lines[:0], j.lines[maxLines/4:]...)
	}
	l.Sequence = j.written
	j.lines = append(j.lines, l)
	j.wake()
}

func (j *Journal) wake() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// Changed is closed at the next event or line. Take it before reading.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// EventsAfter returns the events with a higher sequence; the caller must not
// change them.
func (j *Journal) EventsAfter(sequence uint64) []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	if sequence >= uint64(len(j.events)) {
		return nil
	}
	return j.events[sequence:len(j.events):len(j.events)]
}

// LastEvent is the highest sequence given out, 0 before the first.
func (j *Journal) LastEvent() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return uint64(len(j.events))
}

// LinesAfter returns up to limit of the lines with a higher sequence that are
// still there, and how many between were dropped.
func (j *Journal) LinesAfter(sequence uint64, limit int) (lines []Line, dropped uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if sequence >= j.written {
		return nil, 0
	}
	first := j.written - uint64(len(j.lines)) // sequence before the window
	if sequence < first {
		dropped, sequence = first-sequence, first
	}
	lines = j.lines[sequence-first:]
	// A copy: the window moves.
	return append([]Line(nil), lines[:min(limit, len(lines))]...), dropped
}
