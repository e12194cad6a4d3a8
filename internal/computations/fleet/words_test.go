package fleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/fleet"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// TestTooMuchOfARun: a guest that tells without end neither fills the database nor
// ends the stream of its host, and it is said what is missing.
func TestTooMuchOfARun(t *testing.T) {
	each(t, func(w *world) {
		const most = 20
		p := w.process(func(c *fleet.Config) { c.MaxEntries = most })
		m := w.join(p, "rack-1").connect(p)
		run := w.newRun()
		m.live(run)
		for i := range 3 * most {
			m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Log{Log: &eventv1.Log{RunId: string(run), Source: agent, Message: fmt.Sprint("line ", i)}}})
			m.told(event(run, agent, uint64(i+2), "input.received"))
		}
		m.told(event(run, agent, 1<<40, vm.EventState, "to", "Running"))
		m.told(event(run, agent, 100, vm.EventState, "to", "Running"))
		events, lines, full := 0, 0, 0
		for _, e := range w.entries(run) {
			switch {
			case e.Type == computations.EntryLog:
				lines++
			case e.Kind == "run.log-full":
				full++
			default:
				events++
			}
			if e.Sequence > 100 {
				t.Errorf("%+v", e)
			}
		}
		// Of the run itself: offered, accepted, starting, ready.
		if full != 1 || lines > most || events != 3*most+1+4 {
			t.Errorf("%d lines, %d events, said %d times", lines, events, full)
		}
		if got := w.get(run); got.AgentState != "Running" {
			t.Errorf("%+v", got)
		}
	})
}

// TestLongWordsOfARun: from so many bytes on, no long text of it is kept; what its
// events change they still change.
func TestLongWordsOfARun(t *testing.T) {
	each(t, func(w *world) {
		const most = 64 << 10
		p := w.process(func(c *fleet.Config) { c.MaxBytes = most })
		m := w.join(p, "rack-1").connect(p)
		run := w.newRun()
		m.live(run)
		for i := range 30 {
			e := event(run, agent, uint64(i+2), "input.received", "name", strings.Repeat("n", 4<<10))
			e.Message = strings.Repeat("m", 4<<10)
			m.told(e)
		}
		m.told(event(run, agent, 100, vm.EventState, "to", "Running"))
		var kept int64
		full := 0
		for _, e := range w.entries(run) {
			kept += e.Bytes()
			if e.Kind == "run.log-full" {
				full++
			}
		}
		if full != 1 || kept > most+16<<10 {
			t.Errorf("%d bytes are kept, said %d times", kept, full)
		}
		if got := w.get(run); got.AgentState != "Running" {
			t.Errorf("%+v", got)
		}
	})
}

// TestDoubtedWords: an agent's key and port that have not their form are not kept
// where commands are made of them, and the run's story says so.
func TestDoubtedWords(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		m := w.join(p, "rack-1").connect(p)
		run := w.newRun()
		m.request(run)
		m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_RunReply{RunReply: &managerv1.RunReply{RunId: string(run), AgentHostPort: 70000}}})
		m.told(event(run, agent, 1, vm.EventReady, "agent_key", agentKey+"; rm -r ."))
		if got := w.get(run); got.State != computations.RunRunning || got.AgentKey != "" || got.AgentAddress != "" {
			t.Errorf("%+v", got)
		}
		if got, want := w.kinds(run), []string{"run.offered", "run.doubted", vm.EventReady, "run.doubted"}; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}
