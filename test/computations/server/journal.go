package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
)

// Entry is a line of the journal: one thing that a Manager sent.
type Entry struct {
	// Type is "event", "log", "run_reply", "stop_reply", "connected" or
	// "disconnected".
	Type     string `json:"type"`
	Instance string `json:"instance,omitempty"`
	RunID    string `json:"run_id,omitempty"`
	// Source is "agent", "shim" or "manager".
	Source     string            `json:"source,omitempty"`
	Sequence   uint64            `json:"sequence,omitempty"`
	Time       time.Time         `json:"time,omitzero"`
	Kind       string            `json:"kind,omitempty"`
	Level      string            `json:"level,omitempty"`
	Message    string            `json:"message,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	// Dropped counts log lines lost just before this one.
	Dropped uint64 `json:"dropped,omitempty"`
	// AgentAddress is HOST:PORT of the agent of an accepted run.
	AgentAddress string `json:"agent_address,omitempty"`
	// Faults of a refused request.
	Faults []Fault `json:"faults,omitempty"`
}

// Fault is why a request was refused.
type Fault struct {
	Reason  string `json:"reason"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func faults(r *managerv1.Refusal) []Fault {
	var out []Fault
	for _, f := range r.GetFaults() {
		out = append(out, Fault{Reason: f.GetReason(), Field: f.GetField(), Message: f.GetMessage(), Hint: f.GetHint()})
	}
	return out
}

func source(s eventv1.Source) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "SOURCE_"))
}

func level(l eventv1.Level) string {
	return strings.ToLower(strings.TrimPrefix(l.String(), "LEVEL_"))
}

// journal is a file of JSON lines. A nil journal keeps nothing.
type journal struct {
	mu   sync.Mutex
	file *os.File
}

// lineStart is how every line of a journal begins.
const lineStart = `{"type":"`

// openJournal continues the journal in name. An unfinished last line is cut
// off: what it told was never acknowledged. A file that is no journal is left
// alone.
func openJournal(name string, known func(key)) (*journal, error) {
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	n := 0
	for line := range bytes.Lines(b[:whole]) {
		n++
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s:%d is no line of a journal: %w; move the file away", name, n, err)
		}
		if e.Type == "event" {
			known(key{e.RunID, eventv1.Source(eventv1.Source_value["SOURCE_"+strings.ToUpper(e.Source)]), e.Sequence})
		}
	}
	if rest := string(b[whole:]); !strings.HasPrefix(rest, lineStart) && !strings.HasPrefix(lineStart, rest) {
		return nil, fmt.Errorf("%s:%d is no line of a journal; move the file away", name, n+1)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	if err := f.Truncate(int64(whole)); err != nil {
		return nil, errors.Join(fmt.Errorf("mending the journal: %w", err), f.Close())
	}
	return &journal{file: f}, nil
}

// append returns when the entry is on disk; logs need not be.
func (j *journal) append(e Entry) error {
	if j == nil {
		return nil
	}
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	if e.Type == "log" {
		return nil
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	return nil
}

// Close closes the file.
func (j *journal) Close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}
