package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/fleet"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// TestTwoSchedulers place the same queue at the same time: each run goes to one
// host, and none gets more than its room.
func TestTwoSchedulers(t *testing.T) {
	each(t, func(w *world) {
		first := w.process()
		second := w.process(func(c *fleet.Config) {
			if w.config.URL != "" {
				c.Store = w.secondStore()
			}
		})
		var hosts []*manager
		for i := range 6 {
			hosts = append(hosts, w.join(first, fmt.Sprint("host-", i)).connect([]*process{first, second}[i%2]))
		}
		// The runs come all at once, and more than there is room for.
		c := w.computation(manifest.TEESim)
		const room, extra = 6 * 4, 6
		runs := make([]computations.ID, room+extra)
		w.update(func(x computations.Writer) error {
			var errs []error
			for i := range runs {
				runs[i] = computations.NewID()
				errs = append(errs, x.PutRun(computations.Run{ID: runs[i], Computation: c, Workspace: w.workspace, Number: int64(i + 1), State: computations.RunQueued, By: w.user, Created: w.clock.now()}))
			}
			x.Signal(computations.TopicQueue)
			return errors.Join(errs...)
		})
		asked := func() (n int) {
			for _, m := range hosts {
				n += m.count(func(in *managerv1.ConnectResponse) bool { return in.GetRunRequest() != nil })
			}
			return n
		}
		w.await("every place to be taken", func(computations.Reader) (bool, error) { return asked() >= room, nil })
		w.await("the reason of the others", func(r computations.Reader) (bool, error) {
			waiting, err := r.Runs(computations.RunFilter{States: []computations.RunState{computations.RunQueued}}, computations.Page{})
			if err != nil || len(waiting) != extra {
				return false, err
			}
			for _, run := range waiting {
				if run.Reason != "all 6 hosts with sim are full" {
					return false, nil
				}
			}
			return true, nil
		})
		for _, m := range hosts {
			if got := w.getHost(m.id); got.Active != 4 {
				t.Errorf("%s has %d runs", m.name, got.Active)
			}
		}
		for _, run := range runs {
			n := 0
			for _, m := range hosts {
				n += m.count(asks(run))
			}
			if want := 1; n != want && w.get(run).State != computations.RunQueued {
				t.Errorf("run %s was asked for %d times", run, n)
			}
		}
		// The oldest went first.
		for i, run := range runs {
			if queued := w.get(run).State == computations.RunQueued; queued != (i >= room) {
				t.Errorf("run %d of %d: queued %v", i, len(runs), queued)
			}
		}
	})
}

// TestManagerOfAnotherProcess: a run that is started at one process reaches the
// Manager that is connected to another, and what it tells is heard there.
func TestManagerOfAnotherProcess(t *testing.T) {
	each(t, func(w *world) {
		there := w.process(func(c *fleet.Config) {
			if w.config.URL != "" {
				c.Store = w.secondStore()
			}
		})
		m := w.join(there, "rack-1").connect(there)
		run := w.newRun() // the store here is another process's; it has no scheduler
		signals, cancel := w.store.Listen(computations.RunTopic(run))
		defer cancel()
		m.live(run)
		select {
		case <-signals:
		case <-w.ctx.Done():
			t.Fatal("nothing was heard of the run")
		}
		w.stop(run)
		m.wait("the request to stop", stops(run))
		w.changeHost(m.id, func(h *computations.Host) { h.Revoked = w.clock.now() })
		if err := m.ended(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v", err)
		}
	})
}

// TestHostMovesBetweenProcesses: the new stream counts, the old one ends, and its
// end does not make the host appear gone.
func TestHostMovesBetweenProcesses(t *testing.T) {
	each(t, func(w *world) {
		first := w.process()
		second := w.process(func(c *fleet.Config) {
			if w.config.URL != "" {
				c.Store = w.secondStore()
			}
		})
		h := w.join(first, "rack-1")
		for i, p := range []*process{first, first, second, first} {
			m := h.connect(p)
			run := w.newRun()
			m.request(run)
			m.refuse(run, "UNSUPPORTED", "manifest/tee")
			// An answer that ends with its stream is asked for again, and the host's
			// room is held meanwhile.
			w.become(run, computations.RunQueued)
			if i == 3 {
				break
			}
			next := h.connect([]*process{first, second, first}[i])
			if err := m.ended(); status.Code(err) != codes.Aborted {
				t.Errorf("%d: %v", i, err)
			}
			next.request(w.newRun())
			time.Sleep(20 * time.Millisecond) // the old stream's handler ends
			if got := w.getHost(h.id); !got.Connected {
				t.Errorf("%d: %+v", i, got)
			}
		}
	})
}

// TestFloodHurtsItselfAlone: one host says as much as it can, and another is
// heard all the same. Of the first one's lines most are dropped, and their number
// is told.
func TestFloodHurtsItselfAlone(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		loud, quiet := w.join(p, "loud").connect(p), w.join(p, "quiet").connect(p)
		runs := map[*manager]computations.ID{}
		for range 2 {
			run := w.newRun()
			w.await("an offer", func(r computations.Reader) (bool, error) { got, err := r.Run(run); return got.Host != "", err })
			m := loud
			if w.get(run).Host == quiet.id {
				m = quiet
			}
			if runs[m] != "" {
				t.Fatal("one host got both")
			}
			runs[m] = run
			m.live(run)
		}
		const lines = 20000
		var flood sync.WaitGroup
		defer flood.Wait()
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		flood.Go(func() {
			for i := range lines {
				l := &eventv1.Log{RunId: string(runs[loud]), Source: agent, Time: timestamppb.Now(), Level: eventv1.Level_LEVEL_DEBUG, Message: fmt.Sprint("line ", i)}
				if ctx.Err() != nil || loud.stream.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Log{Log: l}}) != nil {
					return
				}
			}
		})
		for i := range 20 {
			quiet.told(event(runs[quiet], agent, uint64(i+2), vm.EventInput))
		}
		flood.Wait()
		// The next line that is kept tells what is missing.
		var kept, dropped int64
		said := int64(lines)
		w.await("the number of lines that were dropped", func(r computations.Reader) (bool, error) {
			time.Sleep(50 * time.Millisecond)
			loud.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Log{Log: &eventv1.Log{RunId: string(runs[loud]), Source: agent, Message: "more"}}})
			said++
			kept, dropped = 0, 0
			for after := int64(0); ; {
				some, err := r.Entries(runs[loud], computations.EntryFilter{After: after})
				if err != nil || len(some) == 0 {
					return kept+dropped > lines, err
				}
				after = some[len(some)-1].Position
				for _, e := range some {
					if e.Type == computations.EntryLog {
						kept++
						dropped += e.Dropped
					}
				}
			}
		})
		if kept > lines/2 || dropped == 0 || kept+dropped > said {
			t.Errorf("%d lines are kept, %d dropped", kept, dropped)
		}
	})
}

// TestStuckManager doesn't read what it is sent: it is not read from any more
// either, others are served, and it can still be told to go.
func TestStuckManager(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		good := w.join(p, "good")
		stuck := w.join(p, "stuck")
		w.changeHost(good.id, func(h *computations.Host) { h.Cordoned = true })
		m := stuck.connect(p)
		run := w.newRun()
		m.live(run)
		// A second stream of the same host, of which nobody reads.
		m.cut()
		stuck.hello = hello(func(x *managerv1.Hello) { x.Runs = []*managerv1.RunStatus{{RunId: string(run)}} })
		conn := w.dial(p, stuck.cert)
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		stream, err := managerv1.NewComputationsServiceClient(conn).Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Hello{Hello: stuck.hello}}); err != nil {
			t.Fatal(err)
		}
		var sent atomic.Int64
		ended := make(chan error, 1)
		go func() {
			for i := uint64(2); ; i++ {
				e := event(run, agent, i, vm.EventInput)
				e.Attributes["kind"] = fmt.Sprintf("%01000d", 0)
				if err := stream.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Event{Event: e}}); err != nil {
					ended <- err
					return
				}
				sent.Add(1)
			}
		}()
		// It comes to a standstill: a window of acknowledgements, and what may wait.
		last := int64(-1)
		for last != sent.Load() || last == 0 {
			last = sent.Load()
			select {
			case <-time.After(500 * time.Millisecond):
			case <-w.ctx.Done():
				t.Fatalf("it goes on and on: %d", sent.Load())
			}
		}
		w.changeHost(good.id, func(h *computations.Host) { h.Cordoned = false })
		w.changeHost(stuck.id, func(h *computations.Host) { h.Cordoned = true })
		other := good.connect(p)
		second := w.newRun()
		other.live(second)
		w.changeHost(stuck.id, func(h *computations.Host) { h.Revoked = w.clock.now() })
		w.await("it to be cut off", func(r computations.Reader) (bool, error) {
			got, err := r.Host(stuck.id)
			return !got.Connected && p.Connected() == 1, err
		})
		// Once it reads, it sees why.
		for {
			if _, err := stream.Recv(); err != nil {
				if status.Code(err) != codes.PermissionDenied {
					t.Error(err)
				}
				break
			}
		}
		<-ended
	})
}

// picky is a store that can't commit what concerns one run.
type picky struct {
	*store.Store
	bad atomic.Value
}

func (p *picky) Update(ctx context.Context, f func(computations.Writer) error) error {
	return p.Store.Update(ctx, func(w computations.Writer) error {
		return f(pickyWriter{w, p.bad.Load().(computations.ID)})
	})
}

type pickyWriter struct {
	computations.Writer
	bad computations.ID
}

var errPicky = errors.New("the database does not like it")

func (w pickyWriter) Append(entries []computations.Entry) ([]computations.Entry, error) {
	for _, e := range entries {
		if e.Run == w.bad {
			return nil, errPicky
		}
	}
	return w.Writer.Append(entries)
}

// TestOneFailsForItselfAlone: what can't be committed ends its own stream, is not
// acknowledged, and holds up nobody else for long.
func TestOneFailsForItselfAlone(t *testing.T) {
	each(t, func(w *world) {
		s := &picky{Store: w.store}
		s.bad.Store(computations.ID(""))
		p := w.process(func(c *fleet.Config) { c.Store = s })
		a, b := w.join(p, "a").connect(p), w.join(p, "b").connect(p)
		first, second := w.newRun(), w.newRun()
		w.await("offers", func(r computations.Reader) (bool, error) {
			x, err1 := r.Run(first)
			y, err2 := r.Run(second)
			return x.Host != "" && y.Host != "", errors.Join(err1, err2)
		})
		if w.get(first).Host != a.id {
			a, b = b, a
		}
		a.live(first)
		b.live(second)
		s.bad.Store(first)
		e := event(first, agent, 2, vm.EventState, "to", "Running")
		a.tell(e)
		b.told(event(second, agent, 2, vm.EventState, "to", "Running"))
		if err := a.ended(); status.Code(err) != codes.Unavailable {
			t.Errorf("%v", err)
		}
		if n := a.count(acks(first, agent, 2)); n > 0 {
			t.Error("what is not committed was acknowledged")
		}
		s.bad.Store(computations.ID(""))
		a.hello = hello(func(x *managerv1.Hello) { x.Runs = []*managerv1.RunStatus{{RunId: string(first)}} })
		a.connect(p).told(e)
		if got := w.get(first); got.AgentState != "Running" {
			t.Errorf("%+v", got)
		}
	})
}

// TestShutdown: what was acknowledged is there, every stream ends, and the host is
// seen to be gone.
func TestShutdown(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		m := w.join(p, "rack-1").connect(p)
		run := w.newRun()
		m.live(run)
		for i := range 50 {
			m.tell(event(run, agent, uint64(i+2), vm.EventInput))
		}
		p.stop()
		if err := m.ended(); status.Code(err) != codes.Unavailable {
			t.Errorf("%v", err)
		}
		acked := m.count(func(in *managerv1.ConnectResponse) bool { return in.GetEventAck() != nil })
		if got := len(w.entries(run)) - 1; got < acked { // and run.offered
			t.Errorf("%d events were acknowledged, %d are there", acked, got)
		}
		if got := w.getHost(m.id); got.Connected {
			t.Errorf("%+v", got)
		}
	})
}

// TestMetrics count what happened.
func TestMetrics(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	registry := prometheus.NewRegistry()
	p := w.process(func(c *fleet.Config) { c.Registry = registry })
	m := w.join(p, "rack-1").connect(p)
	run := w.newRun()
	m.live(run)
	m.told(event(run, agent, 1, vm.EventReady)) // again
	m.told(event("01936f7a-0000-7000-8000-00000000dead", agent, 1, vm.EventReady))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	for name, want := range map[string]float64{
		"cocos_fleet_events_committed_total": 3, "cocos_fleet_managers_connected": 1, "cocos_fleet_runs_offered_total": 1,
		"cocos_fleet_runs_queued": 0, "cocos_fleet_strange_runs_total": 1, "cocos_fleet_commits_failed_total": 0,
		"cocos_fleet_log_lines_committed_total": 0, "cocos_fleet_log_lines_dropped_total": 0,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if got["cocos_fleet_commit_seconds"] < 1 {
		t.Errorf("%v", got)
	}
}
