package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

const (
	// askAgain is when a stop that failed on the host is asked for again.
	askAgain = 30 * time.Second
	// A VM whose result is with every consumer, or whose computation failed, is
	// kept for so long, for receipts and for what consumers still want to fetch.
	keepReleased = 10 * time.Minute
	keepFailed   = time.Hour
)

// atHost are the states of runs that a host has to do with.
var atHost = []computations.RunState{computations.RunOffered, computations.RunStarting, computations.RunRunning}

// runsOf lists a host's runs in some states.
func runsOf(r computations.Reader, host computations.ID, states []computations.RunState) ([]computations.Run, error) {
	var all []computations.Run
	for page := (computations.Page{}); ; {
		runs, err := r.Runs(computations.RunFilter{Host: host, States: states}, page)
		if err != nil {
			return nil, err
		}
		all = append(all, runs...)
		if len(runs) < computations.MaxPage {
			return all, nil
		}
		page.Before = runs[len(runs)-1].ID
	}
}

// tell sends the host what the database has for it: runs that it is offered, and
// stops. What this stream has sent is not sent again; a new stream sends it again,
// and the Manager knows it by its run. At a tick it also ends what is done.
func (s *stream) tell(ctx context.Context, tick bool) error {
	var (
		out    []*managerv1.ConnectResponse
		asked  []computations.ID
		stops  []computations.ID
		done   []computations.ID
		active map[computations.ID]bool
		now    = s.f.now()
	)
	// Before the look: what is answered after it, is seen as asked.
	s.askMu.Lock()
	sent := maps.Clone(s.asked)
	s.askMu.Unlock()
	err := s.f.cfg.Store.View(ctx, func(r computations.Reader) error {
		out, asked, stops, done, active = nil, nil, nil, nil, map[computations.ID]bool{}
		h, err := r.Host(s.host)
		switch {
		case err != nil:
			return err
		case !h.Revoked.IsZero():
			return revoked(h)
		case h.Process != s.mark:
			return errReplaced
		}
		runs, err := runsOf(r, s.host, atHost)
		if err != nil {
			return err
		}
		slices.Reverse(runs) // the oldest first
		for _, run := range runs {
			active[run.ID] = true
			switch {
			case !run.StopAsked.IsZero():
				if at, sent := s.stops[run.ID]; !sent || now.Sub(at) >= askAgain {
					stops = append(stops, run.ID)
				}
			case run.State == computations.RunOffered:
				if sent[run.ID] {
					continue
				}
				request, err := runRequest(r, run)
				if err != nil {
					return err
				}
				asked, out = append(asked, run.ID), append(out, request)
			case tick && run.State == computations.RunRunning:
				over, err := isDone(r, run, now)
				if err != nil {
					return err
				}
				if over {
					done = append(done, run.ID)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range stops {
		s.stops[id] = now
		out = append(out, &managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_StopRequest{StopRequest: &managerv1.StopRequest{RunId: string(id)}}})
	}
	s.askMu.Lock()
	for _, id := range asked {
		s.asked[id] = true
	}
	s.askMu.Unlock()
	maps.DeleteFunc(s.stops, func(id computations.ID, _ time.Time) bool { return !active[id] })
	if len(out) > 0 {
		s.f.step("request.sending")
		s.send(out...)
	}
	return s.stopDone(ctx, done)
}

// runRequest asks for a run. Approvals go with it as they were given.
func runRequest(r computations.Reader, run computations.Run) (*managerv1.ConnectResponse, error) {
	c, err := r.Computation(run.Computation)
	if err != nil {
		return nil, fmt.Errorf("the computation of run %s: %w", run.ID, err)
	}
	approvals, err := r.Approvals(run.Computation)
	if err != nil {
		return nil, fmt.Errorf("the approvals of run %s: %w", run.ID, err)
	}
	request := &managerv1.RunRequest{RunId: string(run.ID), Manifest: c.Manifest, TtlSeconds: uint32(run.TTL / time.Second), Traceparent: run.Trace}
	for _, a := range approvals {
		request.Approvals = append(request.Approvals, &managerv1.Approval{PublicKey: a.PublicKey.SPKI(), Signature: a.Signature})
	}
	return &managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_RunRequest{RunRequest: request}}, nil
}

// isDone tells whether nobody needs a run's VM any more.
func isDone(r computations.Reader, run computations.Run, now time.Time) (bool, error) {
	keep := map[string]time.Duration{stateReleased: keepReleased, stateFailed: keepFailed}[run.AgentState]
	if keep == 0 {
		return false, nil
	}
	last, err := r.Entries(run.ID, computations.EntryFilter{Backward: true, Limit: 1, Types: []computations.EntryType{computations.EntryEvent}, Kind: kindState})
	if err != nil || len(last) == 0 {
		return false, err
	}
	return now.Sub(last[0].Committed) >= keep, nil
}

// stopDone asks for the end of runs whose VMs nobody needs.
func (s *stream) stopDone(ctx context.Context, runs []computations.ID) error {
	if len(runs) == 0 {
		return nil
	}
	slices.Sort(runs)
	return s.f.cfg.Store.Update(ctx, func(w computations.Writer) error {
		for _, id := range runs {
			run, err := w.LockRun(id)
			if err != nil {
				return err
			}
			if run.Host != s.host || run.State != computations.RunRunning || !run.StopAsked.IsZero() {
				continue
			}
			run.StopAsked = s.f.now()
			if err := w.PutRun(run); err != nil {
				return err
			}
			if err := computations.ServiceEvent(w, id, s.f.now(), "run.stop-asked", "nobody needs the VM any more: it is ended", nil); err != nil {
				return err
			}
		}
		w.Signal(computations.HostTopic(s.host))
		return nil
	})
}

// arrive writes down that the host is connected, by this stream, and what it said
// of itself. Runs that it accepted and no longer holds are lost: a Manager keeps
// a run until the end of it was acknowledged.
func (s *stream) arrive(ctx context.Context, hello *managerv1.Hello) error {
	holds := map[computations.ID]bool{}
	for _, r := range hello.GetRuns() {
		holds[computations.ID(r.GetRunId())] = true
	}
	report := reportOf(hello)
	var strange int
	err := s.f.cfg.Store.Update(ctx, func(w computations.Writer) error {
		h, err := hostOf(w, s.who)
		if err != nil {
			return err
		}
		s.name = h.Name
		if s.who.serial == h.Serial {
			h.PreviousSerial = "" // the new one was seen
		}
		report.Refusals = h.Report.Refusals
		h.Report, h.Contact, h.Connected, h.Process, h.Address = report, s.f.now(), true, s.mark, s.who.address
		if err := w.PutHost(h); err != nil {
			return err
		}
		runs, err := runsOf(w, s.host, atHost)
		if err != nil {
			return err
		}
		known := 0
		slices.SortFunc(runs, func(a, b computations.Run) int { return compareIDs(a.ID, b.ID) })
		for _, run := range runs {
			if holds[run.ID] {
				known++
				if err := s.back(w, run.ID); err != nil {
					return err
				}
				continue
			}
			if run.State == computations.RunOffered {
				continue // it is asked again
			}
			if err := s.lost(w, run.ID); err != nil {
				return err
			}
		}
		strange = len(holds) - known
		w.Signal(computations.HostTopic(s.host)) // an older stream ends
		w.Signal(computations.TopicQueue)
		return nil
	})
	if err != nil {
		return err
	}
	if strange > 0 {
		// Most often they ended while the host was away; then it soon forgets them.
		s.f.log.Info("a host holds runs that are not under way here", "host", s.name, "count", strange)
	}
	s.f.step("host.connected")
	return nil
}

// back says how a run stands whose host was away.
func (s *stream) back(w computations.Writer, id computations.ID) error {
	run, err := w.LockRun(id)
	if err != nil || run.Host != s.host || run.State != computations.RunStarting && run.State != computations.RunRunning || run.Reason != away(run.State, s.name) {
		return err
	}
	run.Reason = stands(&run)
	if err := computations.ServiceEvent(w, id, s.f.now(), "run.goes-on", "its host, "+s.name+", is connected again", nil); err != nil {
		return err
	}
	w.Signal(computations.WorkspaceTopic(run.Workspace))
	return w.PutRun(run)
}

// lost ends a run of which its host knows nothing any more.
func (s *stream) lost(w computations.Writer, id computations.ID) error {
	run, err := w.LockRun(id)
	if err != nil || run.Host != s.host || run.State != computations.RunStarting && run.State != computations.RunRunning {
		return err
	}
	run.State, run.Ended, run.Reason = computations.RunFailed, s.f.now(), "its host, "+s.name+", no longer holds it"
	if err := computations.ServiceEvent(w, id, s.f.now(), "run.failed", run.Reason, nil); err != nil {
		return err
	}
	w.Signal(computations.WorkspaceTopic(run.Workspace))
	return w.PutRun(run)
}

// depart writes down that the host is not connected, unless another stream took
// over.
func (s *stream) depart() {
	s.f.committer.forget(s)
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	err := s.f.cfg.Store.Update(ctx, func(w computations.Writer) error {
		h, err := w.Host(s.host)
		if err != nil || h.Process != s.mark {
			return err
		}
		h.Connected, h.Contact = false, s.f.now()
		return w.PutHost(h)
	})
	if err != nil {
		// It is seen from the time of its last contact.
		s.f.log.Warn("that a Manager is gone could not be written down", "host", s.name, "error", err)
	}
}
