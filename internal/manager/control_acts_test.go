package manager

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"google.golang.org/grpc/codes"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// A line of a guest, or of what a guest provokes, is one line and nothing else.
func TestLogsCannotBeForged(t *testing.T) {
	l := operated(t)
	hostile := []string{
		"agent\ntime=2026-01-01T00:00:00Z level=ERROR msg=\"forged\"",
		"\x1b[2J\x1b]0;title\x07cleared", "\u202egnp.exe", "a\u2028b\u2029c", "\x00\x08\x7f\u0085\u009b31m", strings.Repeat("x", 100_000),
	}
	l.say(hostile...)
	l.inside()
	o := l.operator()
	id := l.running(o).GetRunId()
	dir := vm.DirOf(l.state, id)
	l.write(dir.Console(), "one\rtwo\n\x1b[31mred\xff\xfe\nlast without an end")
	l.write(dir.ShimLog(), "time=2026-11-24T01:02:03Z level=WARN msg=\"QEMU says\" line=\"a\\nb\"\n\x1b[1mpanic: \u202eno\n")
	lines, err := collect(o.Logs(l.ctx, &controlv1.LogsRequest{Run: id, Lines: maxLogLines, Sources: []controlv1.LogSource{1, 2, 3, 4}}))
	if err != io.EOF {
		t.Fatal(err)
	}
	got := map[controlv1.LogSource]int{}
	for _, line := range lines {
		got[line.GetSource()]++
		if strings.ContainsFunc(line.GetMessage(), func(r rune) bool { return !unicode.IsPrint(r) }) || len(line.GetMessage()) > maxLine {
			t.Errorf("%v: %.200q", line.GetSource(), line.GetMessage())
		}
	}
	if got[controlv1.LogSource_LOG_SOURCE_AGENT] != len(hostile) {
		t.Errorf("%d lines of the agent, it said %d", got[controlv1.LogSource_LOG_SOURCE_AGENT], len(hostile))
	}
	// The file's last line may still be written.
	if n := got[controlv1.LogSource_LOG_SOURCE_CONSOLE]; n != 3 {
		t.Errorf("%d lines of the console", n)
	}
	if n := got[controlv1.LogSource_LOG_SOURCE_SHIM]; n < 2 {
		t.Errorf("%d lines of the shim", n)
	}
	if got[controlv1.LogSource_LOG_SOURCE_MANAGER] == 0 {
		t.Error("no line of the Manager")
	}
}

func TestLogsFollow(t *testing.T) {
	l := operated(t)
	l.say("before 1", "before 2")
	l.inside()
	o := l.operator()
	id := l.running(o).GetRunId()
	stream, err := o.Logs(l.ctx, &controlv1.LogsRequest{Run: id, Lines: 1, Follow: true, Sources: []controlv1.LogSource{
		controlv1.LogSource_LOG_SOURCE_AGENT, controlv1.LogSource_LOG_SOURCE_MANAGER, controlv1.LogSource_LOG_SOURCE_CONSOLE}})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want string) {
		t.Helper()
		for {
			line, err := stream.Recv()
			if err != nil {
				t.Fatalf("waiting for %q: %v", want, err)
			}
			if strings.Contains(line.GetMessage(), want) {
				return
			}
			if line.GetMessage() == "before 1" {
				t.Error("more lines than were asked for")
			}
		}
	}
	next("before 2")
	l.say("after")
	next("after")
	l.write(vm.DirOf(l.state, id).Console(), "on the console\n")
	next("on the console")
	if _, err := o.Stop(l.ctx, &controlv1.StopRequest{Runs: []string{id}}); err != nil {
		t.Fatal(err)
	}
	next("a stop is asked for")
	next("the run is over")
	if _, err := collect(stream, nil); err != io.EOF {
		t.Errorf("after the run's end: %v", err)
	}
	_, err = o.Show(l.ctx, &controlv1.ShowRequest{Run: id})
	refusedWith(t, err, codes.NotFound, rpcerr.RunUnknown, "run", "has ended")
}

func TestOperatorStops(t *testing.T) {
	l := operated(t)
	var log lockedBuffer
	l.insideLogging(&log)
	o := l.operator()
	a, b, c := l.running(o).GetRunId(), l.running(o).GetRunId(), l.running(o).GetRunId()
	grace := uint32(7)
	s, err := o.Stop(l.ctx, &controlv1.StopRequest{Runs: []string{a, a[:30]}, Wait: true, GraceSeconds: &grace})
	if err != nil || len(s.GetRuns()) != 1 || s.GetRuns()[0].GetRunId() != a || !s.GetRuns()[0].GetGone() || s.GetRuns()[0].GetProblem() != "" {
		t.Errorf("stopped: %v, %v", s, err)
	}
	l.complete(a)
	for _, want := range []string{"a stop is asked for", "run=" + a, fmt.Sprintf("by.uid=%d", os.Getuid()), fmt.Sprintf("by.pid=%d", os.Getpid()), "grace=7s"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
	s, err = o.Stop(l.ctx, &controlv1.StopRequest{All: true})
	if err != nil || len(s.GetRuns()) != 2 {
		t.Errorf("stopped: %v, %v", s, err)
	}
	l.complete(b)
	l.complete(c)
	// They may still be forgotten; whoever waits learns of it.
	if s, err := o.Stop(l.ctx, &controlv1.StopRequest{All: true, Wait: true}); err != nil || slices.ContainsFunc(s.GetRuns(), func(s *controlv1.Stopped) bool { return !s.GetGone() }) {
		t.Errorf("waiting for all: %v, %v", s, err)
	}
	// None is not an error, and the Manager takes runs as before.
	if s, err := o.Stop(l.ctx, &controlv1.StopRequest{All: true, Wait: true}); err != nil || len(s.GetRuns()) != 0 {
		t.Errorf("with none: %v, %v", s, err)
	}
	l.running(o)
}

func TestOperatorDrains(t *testing.T) {
	for _, wait := range []bool{true, false} {
		t.Run(fmt.Sprintf("wait=%t", wait), func(t *testing.T) {
			l := operated(t)
			l.inside()
			o := l.operator()
			id := l.running(o).GetRunId()
			s, err := o.Stop(l.ctx, &controlv1.StopRequest{All: true, Drain: true, Wait: wait})
			if err != nil || len(s.GetRuns()) != 1 || s.GetRuns()[0].GetProblem() != "" || s.GetRuns()[0].GetGone() != wait {
				t.Errorf("stopped: %v, %v", s, err)
			}
			l.complete(id)
			l.refused(l.submit(), "shutting down")
			st, err := o.Status(l.ctx, &controlv1.StatusRequest{})
			if err != nil || !st.GetDraining() {
				t.Errorf("status: %v, %v", st, err)
			}
		})
	}
}

// A shim that hangs is shown as what it is, and the others are not held up.
func TestOperatorSeesAHangingShim(t *testing.T) {
	l := operated(t)
	l.inside()
	o := l.operator()
	first := l.running(o).GetRunId()
	pid := l.shims()[0]
	second := l.running(o).GetRunId()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	r := l.seen(o, first, "hanging", func(r *controlv1.Run) bool { return !r.GetShimAnswers() })
	if r.GetState() != "running" || r.GetShimProblem() == "" || r.GetOver() {
		t.Errorf("a run whose shim hangs: %v", r)
	}
	l.seen(o, second, "answering", func(r *controlv1.Run) bool { return r.GetShimAnswers() })
	if show, err := o.Show(l.ctx, &controlv1.ShowRequest{Run: first}); err != nil || show.GetMachine() == nil || len(show.GetEvents()) == 0 {
		t.Errorf("show: %v, %v", show, err)
	}
	lines, err := collect(o.Logs(l.ctx, &controlv1.LogsRequest{Run: first, Lines: 10, Sources: []controlv1.LogSource{controlv1.LogSource_LOG_SOURCE_AGENT}}))
	if err != io.EOF || len(lines) != 1 || !strings.Contains(lines[0].GetMessage(), "the agent's lines can't be had") || lines[0].GetLevel() != eventv1.Level_LEVEL_WARN {
		t.Errorf("lines: %v, %v", lines, err)
	}
}
