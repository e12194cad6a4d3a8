package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxQMPLine bounds one message of QEMU's, in bytes.
	maxQMPLine = 1 << 20
	// Events that may come at once, and per second; a long one counts as many.
	// QEMU tells of a few in a VM's whole life.
	eventBurst = 1_100_000
	eventRate  = 10_000
	eventSize  = 128 // bytes
)

// Event is what QEMU tells by itself, such as SHUTDOWN.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// QMP is a session with QEMU's monitor (docs/interop/qmp-spec of QEMU). It is
// safe for concurrent use.
type QMP struct {
	conn    net.Conn
	onEvent func(Event)
	events  budget
	done    chan struct{}
	err     error // valid once done is closed

	writing sync.Mutex

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan reply
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *QMPError       `json:"error"`
}

// QMPError is QEMU's refusal of a command.
type QMPError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *QMPError) Error() string { return e.Desc }

// NewQMP reads the greeting from conn and negotiates. onEvent is called for
// each event, by one goroutine; it must not wait, for QMP least of all. The
// session owns conn in any case. It ends with the connection, a line that is too
// long or means nothing, and a flood of events: see Done.
func NewQMP(ctx context.Context, conn net.Conn, onEvent func(Event)) (*QMP, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	q := &QMP{conn: conn, onEvent: onEvent, events: budget{left: eventBurst, at: time.Now()}, done: make(chan struct{}), waiting: map[uint64]chan reply{}}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 4096), maxQMPLine)
	if err := greeting(lines); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("greeting QEMU's monitor: %w", errors.Join(err, ctx.Err()))
	}
	go q.read(lines)
	if err := q.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = q.Close()
		return nil, err
	}
	return q, nil
}

func greeting(lines *bufio.Scanner) error {
	if !lines.Scan() {
		return errors.Join(lines.Err(), io.ErrUnexpectedEOF)
	}
	var g struct {
		QMP *struct{} `json:"QMP"`
	}
	if err := json.Unmarshal(lines.Bytes(), &g); err != nil {
		return err
	}
	if g.QMP == nil {
		return fmt.Errorf("%.100q is not a greeting", lines.Bytes())
	}
	return nil
}

// read distributes what QEMU says until the connection ends.
func (q *QMP) read(lines *bufio.Scanner) {
	var err error
	for err == nil && lines.Scan() {
		var m struct {
			Event
			reply
			ID uint64 `json:"id"`
		}
		if err = json.Unmarshal(lines.Bytes(), &m); err != nil {
			break
		}
		if m.Name != "" {
			if !q.events.spend(1+len(lines.Bytes())/eventSize, time.Now()) {
				err = fmt.Errorf("a flood of events, the last of which is %.50q", m.Name)
				break
			}
			q.onEvent(m.Event)
			continue
		}
		q.mu.Lock()
		c, asked := q.waiting[m.ID]
		delete(q.waiting, m.ID)
		q.mu.Unlock()
		if !asked {
			err = fmt.Errorf("answer to %d, which was not asked", m.ID)
			break
		}
		if c != nil {
			c <- m.reply
		}
	}
	if err == nil {
		if err = lines.Err(); err == nil {
			err = io.EOF
		}
	}
	q.err = err
	_ = q.conn.Close()
	close(q.done)
}

// budget is what may be spent: eventBurst, filled up at eventRate.
type budget struct {
	left float64
	at   time.Time
}

func (b *budget) spend(n int, now time.Time) bool {
	if d := now.Sub(b.at); d > 0 {
		b.left = min(eventBurst, b.left+d.Seconds()*eventRate)
	}
	b.at = now
	b.left -= float64(n)
	return b.left >= 0
}

// Done is closed when the session has ended; Err then says why.
func (q *QMP) Done() <-chan struct{} { return q.done }

// Err is why the session has ended, io.EOF if QEMU hung up. Valid once Done is
// closed.
func (q *QMP) Err() error { return q.err }

// Execute runs a command with its arguments (nil: none) and decodes what it
// returns into result, unless that is nil. A refusal is a *QMPError.
func (q *QMP) Execute(ctx context.Context, command string, arguments, result any) error {
	c := make(chan reply, 1)
	q.mu.Lock()
	q.next++
	id := q.next
	q.waiting[id] = c
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	q.mu.Unlock()
	if err == nil {
		err = q.write(ctx, append(b, '\n'))
	}
	if err != nil {
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
		select {
		case <-q.done:
			err = q.err // says more than a write to what is closed
		default:
		}
		return fmt.Errorf("QEMU monitor, %s: %w", command, err)
	}
	var r reply
	select {
	case r = <-c:
	case <-q.done:
		select {
		case r = <-c: // answered just before the end, as quit is
		default:
			return fmt.Errorf("QEMU monitor, %s: %w", command, q.err)
		}
	case <-ctx.Done():
		q.mu.Lock()
		q.waiting[id] = nil // its answer may still come
		q.mu.Unlock()
		return fmt.Errorf("QEMU monitor, %s: %w", command, ctx.Err())
	}
	if r.Error != nil {
		return fmt.Errorf("QEMU monitor, %s: %w", command, r.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Return, result); err != nil {
		return fmt.Errorf("QEMU monitor, %s: %w", command, err)
	}
	return nil
}

// write writes one line. One that is cut off leaves no way to go on.
func (q *QMP) write(ctx context.Context, line []byte) error {
	q.writing.Lock()
	defer q.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = q.conn.Close() })
	_, err := q.conn.Write(line)
	if !stop() && err != nil {
		return ctx.Err()
	}
	return err
}

// PowerDown presses the guest's power button.
func (q *QMP) PowerDown(ctx context.Context) error {
	return q.Execute(ctx, "system_powerdown", nil, nil)
}

// Quit ends QEMU at once.
func (q *QMP) Quit(ctx context.Context) error { return q.Execute(ctx, "quit", nil, nil) }

// Pause stops the guest's CPUs, Resume lets them go on.
func (q *QMP) Pause(ctx context.Context) error { return q.Execute(ctx, "stop", nil, nil) }

// Resume: see Pause.
func (q *QMP) Resume(ctx context.Context) error { return q.Execute(ctx, "cont", nil, nil) }

// Status returns QEMU's word for the guest's state, such as "running".
func (q *QMP) Status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := q.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

// Close ends the session and waits for it.
func (q *QMP) Close() error {
	err := q.conn.Close()
	<-q.done
	return err
}
