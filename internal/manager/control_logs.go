package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

const (
	maxLogLines = 10_000
	// maxTailBytes is how much of a file's end is read for its last lines.
	maxTailBytes = 2 << 20
	// filePause is between looks at a file that is followed.
	filePause = 200 * time.Millisecond
	tailBatch = 64
)

// tail sends what one source has: the last lines, then nil once, then with
// follow what comes until ctx ends or over is closed.
type tail func(ctx context.Context, lines int, follow bool, over <-chan struct{}, send func(*controlv1.LogsResponse) error) error

// Logs implements control.proto.
func (c *control) Logs(q *controlv1.LogsRequest, stream grpc.ServerStreamingServer[controlv1.LogsResponse]) error {
	r, err := c.find("run", q.GetRun())
	if err != nil {
		return err
	}
	if q.GetLines() > maxLogLines {
		return refuse(codes.InvalidArgument, rpcerr.ArgumentInvalid, "lines", "ask for fewer", "lines: is %d; at most %d can be had", q.GetLines(), maxLogLines)
	}
	tails, err := r.tails(q.GetSources())
	if err != nil {
		return err
	}
	select {
	case c.tails <- struct{}{}:
		defer func() { <-c.tails }()
	default:
		return refuse(codes.ResourceExhausted, rpcerr.TooManyCalls, "", "end one of the cocos-cli manager logs that are running", "%d callers read logs already", maxTails)
	}
	return merge(stream.Context(), tails, int(q.GetLines()), q.GetFollow(), r.left, stream.Send)
}

// tails are the sources that are asked for.
func (r *run) tails(sources []controlv1.LogSource) ([]tail, error) {
	if len(sources) == 0 {
		sources = []controlv1.LogSource{controlv1.LogSource_LOG_SOURCE_AGENT, controlv1.LogSource_LOG_SOURCE_SHIM, controlv1.LogSource_LOG_SOURCE_MANAGER}
	}
	var tails []tail
	for i, s := range sources {
		if slices.Contains(sources[:i], s) {
			continue
		}
		switch s {
		case controlv1.LogSource_LOG_SOURCE_AGENT:
			tails = append(tails, r.agentTail)
		case controlv1.LogSource_LOG_SOURCE_SHIM:
			tails = append(tails, r.fileTail(r.dir.ShimLog(), func(s string) *controlv1.LogsResponse {
				// What each line says of whose it is was asked for.
				return shimLine(strings.Replace(s, " run="+r.id+" source=shim", "", 1))
			}))
		case controlv1.LogSource_LOG_SOURCE_MANAGER:
			tails = append(tails, r.ownTail)
		case controlv1.LogSource_LOG_SOURCE_CONSOLE:
			tails = append(tails, r.fileTail(r.dir.Console(), consoleLine))
		default:
			return nil, refuse(codes.InvalidArgument, rpcerr.ArgumentInvalid, fmt.Sprintf("sources/%d", i), "use agent, shim, manager or console", "sources/%d: %d is no source of lines", i, s)
		}
	}
	return tails, nil
}

// merge sends the past of all sources in the order of time, then the lines of
// each as they come. It returns when every source has ended.
func merge(ctx context.Context, tails []tail, lines int, follow bool, over <-chan struct{}, send func(*controlv1.LogsResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var sources sync.WaitGroup
	defer sources.Wait()
	defer cancel()
	type item struct {
		source int
		line   *controlv1.LogsResponse // nil: its past is over
	}
	// Unbuffered: a slow caller holds the sources up, and they skip lines.
	items := make(chan item)
	for i, t := range tails {
		sources.Go(func() {
			put := func(l *controlv1.LogsResponse) error {
				select {
				case items <- item{i, l}:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if err := t(ctx, lines, follow, over, put); err != nil && ctx.Err() == nil {
				// One source that fails does not end the others.
				_ = put(&controlv1.LogsResponse{Source: controlv1.LogSource_LOG_SOURCE_MANAGER, Time: timestamppb.Now(), Level: eventv1.Level_LEVEL_WARN,
					Message: telemetry.Clean(err.Error(), maxLine)})
			}
			_ = put(nil) // once more, where the past was over already
		})
	}
	ended := make(chan struct{})
	go func() { sources.Wait(); close(ended) }()

	var past []*controlv1.LogsResponse
	current := make([]bool, len(tails))
	for waiting := len(tails); ; {
		select {
		case it := <-items:
			switch {
			case it.line == nil && !current[it.source]:
				current[it.source] = true
				if waiting--; waiting > 0 {
					continue
				}
				slices.SortStableFunc(past, func(a, b *controlv1.LogsResponse) int {
					return a.GetTime().AsTime().Compare(b.GetTime().AsTime())
				})
				for _, l := range past {
					if err := send(l); err != nil {
						return err
					}
				}
				past = nil
			case it.line == nil:
			case waiting > 0:
				past = append(past, it.line) // bounded: a source waits while others are not current
			default:
				if err := send(it.line); err != nil {
					return err
				}
			}
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// agentTail asks the shim, which keeps the agent's lines.
func (r *run) agentTail(ctx context.Context, lines int, follow bool, _ <-chan struct{}, send func(*controlv1.LogsResponse) error) error {
	// The shim's own lines among them are shown by its log.
	var missing uint64
	err := r.watch(ctx, &shimv1.WatchRequest{Lines: uint32(lines), Follow: follow}, func(w *shimv1.WatchResponse) error {
		if w.GetCaughtUp() != nil {
			return send(nil)
		}
		l := w.GetLog()
		if l == nil || l.GetRunId() != r.id {
			return nil
		}
		missing += l.GetDropped()
		if l.GetSource() != eventv1.Source_SOURCE_AGENT {
			return nil
		}
		line := &controlv1.LogsResponse{Source: controlv1.LogSource_LOG_SOURCE_AGENT, Time: l.GetTime(), Level: l.GetLevel(),
			Message: telemetry.Clean(l.GetMessage(), maxLine), Missing: missing}
		missing = 0
		return send(line)
	})
	if err != nil && r.over.Load() {
		return errors.New("the VM has ended, and the agent's lines went with its shim")
	}
	if err != nil {
		return fmt.Errorf("the agent's lines can't be had: %w", err)
	}
	return nil
}

// ownTail shows what this Manager says of the run.
func (r *run) ownTail(ctx context.Context, lines int, follow bool, over <-chan struct{}, send func(*controlv1.LogsResponse) error) error {
	own := r.m.watched.lines
	all, _, next, _ := own.From(0, maxOwnLines)
	mine := slices.DeleteFunc(all, func(l ownLine) bool { return l.run != r.id })
	for _, l := range mine[max(0, len(mine)-lines):] {
		if err := send(l.response(0)); err != nil {
			return err
		}
	}
	if err := send(nil); err != nil || !follow {
		return err
	}
	var missing uint64
	for last := false; ; {
		some, lost, after, changed := own.From(next, tailBatch)
		next, missing = after, missing+lost
		for _, l := range some {
			if l.run != r.id {
				continue
			}
			if err := send(l.response(missing)); err != nil {
				return err
			}
			missing = 0
		}
		if len(some) > 0 {
			continue
		}
		if last {
			return nil
		}
		select {
		case <-changed:
		case <-over:
			last = true // what was said meanwhile is still to be sent
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l ownLine) response(missing uint64) *controlv1.LogsResponse {
	return &controlv1.LogsResponse{Source: controlv1.LogSource_LOG_SOURCE_MANAGER, Time: timestamppb.New(l.time), Level: level(l.level), Message: l.text, Missing: missing}
}

func level(l slog.Level) eventv1.Level {
	switch {
	case l >= slog.LevelError:
		return eventv1.Level_LEVEL_ERROR
	case l >= slog.LevelWarn:
		return eventv1.Level_LEVEL_WARN
	case l >= slog.LevelInfo:
		return eventv1.Level_LEVEL_INFO
	}
	return eventv1.Level_LEVEL_DEBUG
}

// fileTail shows a file in the run's folder, which its shim writes.
func (r *run) fileTail(name string, parse func(string) *controlv1.LogsResponse) tail {
	return func(ctx context.Context, lines int, follow bool, over <-chan struct{}, send func(*controlv1.LogsResponse) error) error {
		f := &fileFollower{name: name}
		defer f.close()
		past, err := f.last(lines)
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		show := func(lines []string) error {
			for _, l := range lines {
				if err := send(parse(l)); err != nil {
					return err
				}
			}
			return nil
		}
		if err := show(past); err != nil {
			return err
		}
		if err := send(nil); err != nil {
			return err
		}
		for last := !follow; ; {
			more, err := f.more(last)
			if err != nil {
				return fmt.Errorf("reading the log: %w", err)
			}
			if err := show(more); err != nil {
				return err
			}
			if last {
				return nil
			}
			select {
			case <-time.After(filePause):
			case <-over:
				last = true
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// fileFollower reads lines of a file that another process appends to, and that
// may be cut by it or not be there yet.
type fileFollower struct {
	name   string
	f      *os.File
	offset int64
	part   []byte // of a line that is not complete
}

func (t *fileFollower) open() error {
	if t.f != nil {
		return nil
	}
	f, err := os.Open(t.name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	t.f = f
	return err
}

func (t *fileFollower) close() {
	if t.f != nil {
		_ = t.f.Close()
	}
}

// last returns the last n lines that are complete.
func (t *fileFollower) last(n int) ([]string, error) {
	if err := t.open(); err != nil || t.f == nil {
		return nil, err
	}
	info, err := t.f.Stat()
	if err != nil {
		return nil, err
	}
	begin := max(0, info.Size()-maxTailBytes)
	b := make([]byte, info.Size()-begin)
	got, err := t.f.ReadAt(b, begin)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	t.offset = begin + int64(got)
	lines := t.split(b[:got])
	if begin > 0 && len(lines) > 0 {
		lines = lines[1:] // its beginning is cut off
	}
	return lines[max(0, len(lines)-n):], nil
}

// more returns what has come since. At the end the last line counts also where
// it is not complete.
func (t *fileFollower) more(end bool) ([]string, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	var lines []string
	if t.f != nil {
		info, err := t.f.Stat()
		if err != nil {
			return nil, err
		}
		if info.Size() < t.offset { // the shim has cut its older half
			t.offset, t.part = info.Size(), nil
			lines = append(lines, "[the file was shortened; some lines may be missing here]")
		}
		b := make([]byte, min(info.Size()-t.offset, maxTailBytes))
		got, err := t.f.ReadAt(b, t.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		t.offset += int64(got)
		lines = append(lines, t.split(b[:got])...)
	}
	if end && len(t.part) > 0 {
		lines = append(lines, string(t.part))
		t.part = nil
	}
	return lines, nil
}

// split takes complete lines and keeps the rest. A line without an end is cut.
func (t *fileFollower) split(b []byte) []string {
	var lines []string
	t.part = append(t.part, b...)
	for {
		line, rest, ok := bytes.Cut(t.part, []byte("\n"))
		if !ok {
			break
		}
		lines = append(lines, string(line))
		t.part = rest
	}
	for len(t.part) > maxLine {
		lines = append(lines, string(t.part[:maxLine]))
		t.part = t.part[maxLine:]
	}
	t.part = slices.Clone(t.part)
	return lines
}

func consoleLine(s string) *controlv1.LogsResponse {
	return &controlv1.LogsResponse{Source: controlv1.LogSource_LOG_SOURCE_CONSOLE, Message: telemetry.Clean(strings.TrimRight(s, "\r"), maxLine)}
}

// textLine is how slog begins a line of text.
var textLine = regexp.MustCompile(`^time=(\S+) level=(\S+) (?:msg=)?`)

// shimLine takes a line of a shim's log, with its time and level where it has
// them.
func shimLine(s string) *controlv1.LogsResponse {
	out := &controlv1.LogsResponse{Source: controlv1.LogSource_LOG_SOURCE_SHIM}
	var record struct {
		Time  time.Time  `json:"time"`
		Level slog.Level `json:"level"`
	}
	known := false
	if m := textLine.FindStringSubmatch(s); m != nil {
		t, err := time.Parse(time.RFC3339, m[1])
		if err == nil && record.Level.UnmarshalText([]byte(m[2])) == nil {
			record.Time, s, known = t, s[len(m[0]):], true
		}
	} else if len(s) > 0 && s[0] == '{' {
		known = json.Unmarshal([]byte(s), &record) == nil && !record.Time.IsZero()
	}
	if known {
		out.Time, out.Level = timestamppb.New(record.Time), level(record.Level)
	}
	out.Message = telemetry.Clean(s, maxLine)
	return out
}
