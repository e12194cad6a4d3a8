package fleet_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/fleet"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// TestRunGoesItsWay from the queue to its end, and everybody can read along.
func TestRunGoesItsWay(t *testing.T) {
	each(t, func(w *world) {
		m := w.join(w.process(), "rack-1").connect(w.process())
		run := w.newRun()
		request := m.request(run)
		f, err := manifest.Parse(request.GetManifest())
		if err != nil {
			t.Fatal(err)
		}
		var given []manifest.Approval
		for _, a := range request.GetApprovals() {
			k, err := keys.ParsePublic(a.GetPublicKey())
			if err != nil {
				t.Fatal(err)
			}
			given = append(given, manifest.Approval{PublicKey: k, Signature: a.GetSignature()})
		}
		if err := f.CheckApprovals(given); err != nil || request.GetTtlSeconds() != 3600 {
			t.Errorf("the request: %v; %v", err, request)
		}
		if got := w.become(run, computations.RunOffered); got.Host != m.id || got.Reason != "offered to rack-1" {
			t.Errorf("%+v", got)
		}
		m.accept(run)
		if got := w.become(run, computations.RunStarting); got.AgentAddress != "127.0.0.1:6100" {
			t.Errorf("%+v", got)
		}
		m.told(event(run, managers, 1, vm.EventAccepted, "agent_port", "6100"))
		m.told(event(run, shim, 1, vm.EventStarting, "tee", "sim", "simulated", "true"))
		m.told(event(run, shim, 2, vm.EventBooting))
		m.told(event(run, agent, 1, vm.EventReady, "agent_key", agentKey))
		if got := w.become(run, computations.RunRunning); got.AgentKey != agentKey || !got.Simulated || got.AgentState != "AwaitingInputs" || got.Started.IsZero() {
			t.Errorf("%+v", got)
		}
		states := []string{"AwaitingInputs", "Running", "ResultReady", "Released"}
		for i := range states[1:] {
			m.told(event(run, agent, uint64(i+2), vm.EventState, "from", states[i], "to", states[i+1]))
			if got := w.get(run); got.AgentState != states[i+1] || got.State != computations.RunRunning {
				t.Errorf("%+v", got)
			}
		}
		w.stop(run)
		m.wait("the request to stop", stops(run))
		m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_StopReply{StopReply: &managerv1.StopReply{RunId: string(run)}}})
		m.told(event(run, shim, 3, vm.EventStopping))
		m.told(event(run, agent, 5, vm.EventState, "from", "Released", "to", "Stopped"))
		m.told(event(run, shim, 4, vm.EventExited))
		if got := w.get(run); got.State.Ended() || got.AgentState != "Released" {
			t.Errorf("ended before all was told: %+v", got)
		}
		m.told(event(run, managers, 2, vm.EventRemoved))
		if got := w.get(run); got.State != computations.RunFinished || got.Ended.IsZero() || got.Reason != "every consumer has the result" {
			t.Errorf("%+v", got)
		}
		want := []string{"run.offered", vm.EventAccepted, vm.EventStarting, vm.EventBooting, vm.EventReady, vm.EventState, vm.EventState, vm.EventState,
			vm.EventStopping, vm.EventState, vm.EventExited, vm.EventRemoved, "run.finished"}
		if got := w.kinds(run); !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		if n := m.count(asks(run)); n != 1 {
			t.Errorf("the run was asked for %d times", n)
		}
	})
}

// TestToldAgain: what comes twice counts once, and an older thing that comes late
// takes nothing back.
func TestToldAgain(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		m := w.join(p, "rack-1").connect(p)
		run := w.newRun()
		m.live(run)
		m.told(event(run, agent, 3, vm.EventState, "from", "Running", "to", "ResultReady"))
		m.told(event(run, agent, 2, vm.EventState, "from", "AwaitingInputs", "to", "Running"))
		if got := w.get(run); got.AgentState != "ResultReady" {
			t.Errorf("a late event took it back: %+v", got)
		}
		before := w.get(run)
		m.cut()
		m.hello = hello(func(h *managerv1.Hello) { h.Runs = []*managerv1.RunStatus{{RunId: string(run), State: "running"}} })
		again := m.connect(p)
		again.accept(run)
		for _, e := range []struct {
			kind string
			n    uint64
		}{{vm.EventReady, 1}, {vm.EventState, 2}, {vm.EventState, 3}} {
			again.told(event(run, agent, e.n, e.kind, "agent_key", otherKey, "to", "Failed"))
		}
		again.told(event(run, managers, 1, vm.EventAccepted, "agent_port", "6199"))
		after := w.get(run)
		if after.AgentKey != before.AgentKey || after.AgentAddress != before.AgentAddress || after.AgentState != "ResultReady" || after.State != computations.RunRunning {
			t.Errorf("%+v\nbefore: %+v", after, before)
		}
		// A second key is no agent's.
		again.told(event(run, agent, 4, vm.EventReady, "agent_key", otherKey))
		if got := w.get(run); got.AgentKey != agentKey {
			t.Errorf("another key: %+v", got)
		}
		if got := len(w.entries(run)); got != 1+3+2+1 {
			t.Errorf("%d entries: %q", got, w.kinds(run))
		}
		if n := again.count(asks(run)); n != 0 {
			t.Error("an accepted run was asked for again")
		}
	})
}

// TestRefusedRunGoesElsewhere: to each host once, as long as there is one.
func TestRefusedRunGoesElsewhere(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		a, b := w.join(p, "a").connect(p), w.join(p, "b").connect(p)
		run := w.newRun()
		first, second := a, b
		w.await("an offer", func(r computations.Reader) (bool, error) {
			run, err := r.Run(run)
			return run.State == computations.RunOffered, err
		})
		if w.get(run).Host == b.id {
			first, second = b, a
		}
		first.request(run)
		first.refuse(run, "UNSUPPORTED", "manifest/tee")
		second.request(run)
		if got := w.get(run); got.Host != second.id || !slices.Equal(got.Refused, []computations.ID{first.id}) {
			t.Errorf("%+v", got)
		}
		// What the first one says now is about nothing of its own.
		first.told(event(run, managers, 1, vm.EventAccepted, "agent_port", "6100"))
		first.accept(run)
		first.told(event(run, managers, 2, vm.EventRemoved))
		if got := w.get(run); got.State != computations.RunOffered || got.Host != second.id {
			t.Errorf("a host that had refused it spoke of it: %+v", got)
		}
		second.refuse(run, "INTERNAL", "")
		w.await("its reason", func(r computations.Reader) (bool, error) {
			got, err := r.Run(run)
			return got.State == computations.RunQueued && got.Reason == "all 2 hosts with sim have refused it", err
		})
		c := w.join(p, "c").connect(p)
		c.request(run)
		c.accept(run)
		w.become(run, computations.RunStarting)
		for _, m := range []*manager{a, b, c} {
			if n := m.count(asks(run)); n != 1 {
				t.Errorf("%s was asked %d times", m.name, n)
			}
		}
		if got, want := w.kinds(run), []string{"run.offered", "run.refused", "run.offered", "run.refused", "run.offered"}; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}

// TestHostThatTellsHasTheRun: what it told is kept, so that it can't refuse it any
// more. What another host told after it would count as told already.
func TestHostThatTellsHasTheRun(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		a := w.join(p, "a").connect(p)
		run := w.newRun()
		a.request(run)
		b := w.join(p, "b").connect(p)
		a.told(event(run, agent, 1, "made.up"))
		if got := w.get(run); got.State != computations.RunStarting || got.Host != a.id {
			t.Errorf("%+v", got)
		}
		a.refuse(run, "NO_CAPACITY", "")
		a.told(event(run, agent, 2, "made.up"))
		if got := w.get(run); got.State != computations.RunStarting || got.Host != a.id || b.count(asks(run)) > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestLateRefusal: a no that is still to be committed when its host has connected
// anew, and was asked anew, counts no more: the host may have agreed meanwhile.
func TestLateRefusal(t *testing.T) {
	each(t, func(w *world) {
		var commits atomic.Int64
		held, release := make(chan int64, 8), make(chan struct{}, 8)
		holding := new(atomic.Bool)
		p := w.process(func(c *fleet.Config) {
			c.Step = func(point string) {
				if point == "event.committing" && holding.Load() {
					held <- commits.Add(1)
					<-release
				}
			}
		})
		h := w.join(p, "a")
		m := h.connect(p)
		own, run := w.newRun(), computations.ID("")
		m.live(own)
		run = w.newRun()
		m.request(run)
		w.become(run, computations.RunOffered)
		b := w.join(p, "b").connect(p)
		holding.Store(true)
		m.tell(event(own, agent, 2, "filler"))
		<-held // nothing is committed until it goes on: the next batch has both of these
		m.tell(event(own, agent, 3, "filler"))
		m.refuse(run, "NO_CAPACITY", "")
		time.Sleep(100 * time.Millisecond) // they are in the queue
		release <- struct{}{}
		<-held
		m.cut()
		h.hello = hello(func(x *managerv1.Hello) { x.Runs = []*managerv1.RunStatus{{RunId: string(own)}} })
		again := h.connect(p)
		again.request(run)
		holding.Store(false)
		release <- struct{}{}
		again.accept(run)
		if got := w.become(run, computations.RunStarting); got.Host != h.id || b.count(asks(run)) > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestHostGoesAwayAndComesBack: it is said of its runs, and what can be done.
func TestHostGoesAwayAndComesBack(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		h := w.join(p, "rack-1")
		m := h.connect(p)
		run := w.newRun()
		m.live(run)
		m.told(event(run, agent, 2, vm.EventState, "to", "Running"))
		m.cut()
		reason := func(want string) {
			t.Helper()
			w.await("the reason "+want, func(r computations.Reader) (bool, error) {
				got, err := r.Run(run)
				return strings.Contains(got.Reason, want), err
			})
		}
		w.update(func(x computations.Writer) error { x.Signal(computations.TopicQueue); return nil })
		reason("rack-1, is not connected: it may go on there; if the host never comes back, an operator ends its runs by revoking it")
		h.hello = hello(func(x *managerv1.Hello) { x.Runs = []*managerv1.RunStatus{{RunId: string(run)}} })
		h.connect(p)
		reason("the algorithm runs")
		if got := w.kinds(run); got[len(got)-1] != "run.goes-on" {
			t.Errorf("%q", got)
		}
	})
}

// TestFullHostIsAskedAgain when it says that there is room: that it had none was
// not about the run.
func TestFullHostIsAskedAgain(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		m := w.join(p, "a").connect(p)
		run := w.newRun()
		m.request(run)
		m.refuse(run, "NO_CAPACITY", "")
		w.await("its reason", func(r computations.Reader) (bool, error) {
			got, err := r.Run(run)
			return got.Reason == "the only host with sim takes no runs at present", err
		})
		m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_HostStatus{HostStatus: &managerv1.HostStatus{Running: 1, Capacity: 2}}})
		w.await("a second request", func(computations.Reader) (bool, error) { return m.count(asks(run)) == 2, nil })
		// Room for what the manifest asks is about the run.
		m.refuse(run, "NO_CAPACITY", "manifest/datasets")
		w.await("its reason", func(r computations.Reader) (bool, error) {
			got, err := r.Run(run)
			return got.Reason == "the only host with sim has refused it", err
		})
	})
}

// TestHostThatIsAlwaysFull, against its own word, does not keep runs from others.
func TestHostThatIsAlwaysFull(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		full := w.join(p, "a").connect(p)
		run := w.newRun()
		full.request(run)
		full.refuse(run, "NO_CAPACITY", "")
		w.await("its reason", func(r computations.Reader) (bool, error) {
			got, err := r.Run(run)
			return got.Reason == "the only host with sim takes no runs at present", err
		})
		// The other one has more to do, and is still the better one.
		other := w.join(p, "b")
		other.hello.Runs = []*managerv1.RunStatus{{RunId: "x"}, {RunId: "y"}}
		busy := other.connect(p)
		busy.request(run)
		busy.accept(run)
		w.become(run, computations.RunStarting)
		full.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_HostStatus{HostStatus: &managerv1.HostStatus{Capacity: 4}}})
		w.await("its word", func(r computations.Reader) (bool, error) { h, err := r.Host(full.id); return !h.Report.Closed, err })
		second := w.newRun()
		busy.request(second)
		// One that accepts again is as good as any.
		busy.accept(second)
		w.changeHost(busy.id, func(h *computations.Host) { h.Cordoned = true })
		third := w.newRun()
		full.request(third)
		full.accept(third)
		w.become(third, computations.RunStarting)
		if h := w.getHost(full.id); h.Report.Refusals != 0 {
			t.Errorf("%+v", h.Report)
		}
	})
}

// TestManyRefusalsAreTheRuns: then nobody else is asked.
func TestManyRefusalsAreTheRuns(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		run := w.newRun()
		for i := range 10 {
			m := w.join(p, fmt.Sprint("host-", i)).connect(p)
			m.request(run)
			m.refuse(run, "INVALID", "manifest")
		}
		if got := w.become(run, computations.RunFailed); got.Reason != "10 hosts refused it; the last one: manifest says no" {
			t.Errorf("%+v", got)
		}
		w.join(p, "one-more").connect(p)
		if got := w.get(run); got.State != computations.RunFailed {
			t.Errorf("%+v", got)
		}
	})
}

// TestStop in every state.
func TestStop(t *testing.T) {
	reply := func(m *manager, run computations.ID, refusal *managerv1.Refusal) {
		m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_StopReply{StopReply: &managerv1.StopReply{RunId: string(run), Refusal: refusal}}})
	}
	each(t, func(w *world) {
		p := w.process()
		h := w.join(p, "rack-1")
		m := h.connect(p)

		// Offered, and the request is on its way.
		offered := w.newRun()
		m.request(offered)
		w.stop(offered)
		m.wait("the request to stop", stops(offered))
		m.accept(offered)
		w.become(offered, computations.RunStarting)
		reply(m, offered, nil)
		m.told(event(offered, shim, 1, vm.EventStopping))
		m.told(event(offered, managers, 1, vm.EventRemoved))
		if got := w.get(offered); got.State != computations.RunStopped || got.Reason != "stopped, as it was asked for" {
			t.Errorf("%+v", got)
		}

		// Offered and refused: it goes to nobody else.
		refused := w.newRun()
		m.request(refused)
		w.stop(refused)
		m.wait("the request to stop", stops(refused))
		m.refuse(refused, "UNSUPPORTED", "manifest/tee")
		if got := w.become(refused, computations.RunStopped); got.Ended.IsZero() {
			t.Errorf("%+v", got)
		}

		// A stop that fails is no end, and is said.
		failing := w.newRun()
		m.live(failing)
		w.stop(failing)
		m.wait("the request to stop", stops(failing))
		reply(m, failing, refusalOf("INTERNAL", "run_id"))
		w.await("a word on it", func(computations.Reader) (bool, error) {
			return slices.Contains(w.kinds(failing), "run.stop-failed"), nil
		})
		w.clock.pass(time.Minute)
		w.changeHost(h.id, func(*computations.Host) {})
		w.await("a second request to stop", func(computations.Reader) (bool, error) { return m.count(stops(failing)) == 2, nil })

		// Offered to a host that is away, and never reaches it.
		m.cut()
		w.await("the host to be away", func(r computations.Reader) (bool, error) { got, err := r.Host(h.id); return !got.Connected, err })
		away := w.newRun()
		w.update(func(x computations.Writer) error {
			run, err := x.LockRun(away)
			run.State, run.Host = computations.RunOffered, h.id
			if err != nil {
				return err
			}
			x.Signal(computations.TopicQueue)
			return x.PutRun(run)
		})
		w.await("the reason of its wait", func(r computations.Reader) (bool, error) {
			got, err := r.Run(away)
			return got.Reason == "offered to rack-1, which is not connected, and must answer first", err
		})
		w.stop(away)
		m.hello = hello(func(x *managerv1.Hello) { x.Runs = []*managerv1.RunStatus{{RunId: string(failing)}} })
		back := h.connect(p)
		back.wait("the request to stop", stops(away))
		reply(back, away, refusalOf("NOT_FOUND", "run_id"))
		w.become(away, computations.RunStopped)
		if n := back.count(asks(away)); n != 0 {
			t.Error("a run that is to end was asked for")
		}
		// That it isn't there is an end for one that was.
		reply(back, failing, refusalOf("NOT_FOUND", "run_id"))
		if got := w.become(failing, computations.RunFailed); got.Reason != "its host, rack-1, no longer holds it" {
			t.Errorf("%+v", got)
		}
	})
}

// TestDoneVMsAreEnded once nobody needs them.
func TestDoneVMsAreEnded(t *testing.T) {
	each(t, func(w *world) {
		p := w.process()
		h := w.join(p, "rack-1")
		m := h.connect(p)
		released, failed, waiting := w.newRun(), w.newRun(), w.newRun()
		for run, state := range map[computations.ID]string{released: "Released", failed: "Failed", waiting: "ResultReady"} {
			m.live(run)
			m.told(event(run, agent, 2, vm.EventState, "to", state, "reason", "algorithm-failed"))
		}
		look := func() *manager { // each connection looks at once
			m.cut()
			m.hello = hello(func(x *managerv1.Hello) {
				for _, id := range []computations.ID{released, failed, waiting} {
					x.Runs = append(x.Runs, &managerv1.RunStatus{RunId: string(id)})
				}
			})
			m = h.connect(p)
			return m
		}
		look()
		if got := w.get(released); !got.StopAsked.IsZero() {
			t.Error("a VM was ended at once")
		}
		w.clock.pass(11 * time.Minute)
		look().wait("the end of the released one", stops(released))
		if got := w.get(failed); !got.StopAsked.IsZero() {
			t.Error("what a failed one left could not be fetched")
		}
		w.clock.pass(time.Hour)
		look().wait("the end of the failed one", stops(failed))
		if got := w.get(waiting); !got.StopAsked.IsZero() {
			t.Error("a result that waits was thrown away")
		}
		m.told(event(released, managers, 2, vm.EventRemoved))
		m.told(event(failed, managers, 2, vm.EventRemoved))
		if a, b := w.get(released), w.get(failed); a.State != computations.RunFinished || b.State != computations.RunFailed {
			t.Errorf("%s, %s", a.State, b.State)
		}
	})
}

// TestUnreadableManifest ends its own run, and no other waits for it.
func TestUnreadableManifest(t *testing.T) {
	each(t, func(w *world) {
		// The store takes no manifest that can't be read; a draft has none.
		bad := computations.Computation{ID: computations.NewID(), Workspace: w.workspace, Creator: w.user, Created: w.clock.now(), Revision: 1}
		w.update(func(x computations.Writer) error { return x.PutComputation(bad) })
		first, second := w.run(bad.ID), w.newRun()
		p := w.process()
		w.join(p, "rack-1").connect(p).request(second)
		if got := w.become(first, computations.RunFailed); !strings.HasPrefix(got.Reason, "its manifest can't be read: ") || got.Ended.IsZero() {
			t.Errorf("%+v", got)
		}
	})
}

// TestWithdrawnWhileQueued: a run waited, and meanwhile a party of its manifest
// revoked the key, left, or was shut out. No host gets it, and others don't wait.
func TestWithdrawnWhileQueued(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(w *world, key computations.Key, x computations.Writer) error
		want   string
	}{
		"revoked": {func(w *world, key computations.Key, x computations.Writer) error {
			key.Revoked = w.clock.now()
			return x.PutKey(key)
		}, "revoked: " + owner().Public().Fingerprint() + " of a@example.org"},
		"left": {func(w *world, _ computations.Key, x computations.Writer) error {
			return x.DeleteMember(w.workspace, w.user)
		}, "a@example.org is no member of the workspace any more"},
		"disabled": {func(w *world, _ computations.Key, x computations.Writer) error {
			u, err := x.User(w.user)
			u.Disabled = true
			return errors.Join(err, x.PutUser(u))
		}, "the account of a@example.org is disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				key := computations.Key{ID: computations.NewID(), User: w.user, Name: "a", Public: owner().Public(), Created: w.clock.now()}
				withdrawn := w.computation(manifest.TEESim)
				w.update(func(x computations.Writer) error {
					c, err := x.Computation(withdrawn)
					if err != nil {
						return err
					}
					c.Draft.Algorithm.Provider, c.Draft.Consumers, c.Draft.Keys = w.user, []computations.ID{w.user}, map[computations.ID]computations.ID{w.user: key.ID}
					return errors.Join(x.PutKey(key), x.PutComputation(c),
						x.PutMember(computations.Member{Workspace: w.workspace, User: w.user, Role: computations.RoleMember, Joined: w.clock.now()}))
				})
				p := w.process()
				m := w.join(p, "rack-1").connect(p)
				before := w.run(withdrawn)
				m.request(before) // as long as nothing has changed
				w.stop(before)
				m.refuse(before, "UNSUPPORTED", "manifest/tee")
				w.become(before, computations.RunStopped)

				w.update(func(x computations.Writer) error { return tt.change(w, key, x) })
				first, second := w.run(withdrawn), w.newRun()
				m.request(second)
				if got := w.become(first, computations.RunFailed); got.Reason != tt.want || got.Ended.IsZero() || got.Host != "" {
					t.Errorf("%+v", got)
				}
				if n := m.count(asks(first)); n != 0 {
					t.Errorf("its host was asked %d times", n)
				}
			})
		})
	}
}
