package computations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ultravioletrs/cocos/manifest"
)

// maxActive bounds the runs of one workspace that haven't ended, so that none fills
// all hosts and the queue.
const maxActive = 1000

// ServiceSource is the source of entries by the service itself.
const ServiceSource = "service"

// ServiceEvent adds an event of the service's own to what a run told.
func ServiceEvent(w Writer, run ID, at time.Time, kind, message string, attributes map[string]string) error {
	last, err := w.Entries(run, EntryFilter{Backward: true, Limit: 1, Types: []EntryType{EntryEvent}, Sources: []string{ServiceSource}})
	if err != nil {
		return err
	}
	e := Entry{
		Run: run, Type: EntryEvent, Source: ServiceSource, Sequence: 1, Time: at, Level: "info",
		Kind: kind, Message: message, Attributes: attributes, Committed: at,
	}
	if len(last) > 0 {
		e.Sequence = last[0].Sequence + 1
	}
	if _, err := w.Append([]Entry{e}); err != nil {
		return err
	}
	w.Signal(RunTopic(run))
	return nil
}

// activeRun is the computation's run that hasn't ended; nil: none.
func activeRun(r Reader, computation ID) (*Run, error) {
	newest, err := r.Runs(RunFilter{Computation: computation}, Page{Limit: 1})
	if err != nil || len(newest) == 0 || newest[0].State.Ended() {
		return nil, err
	}
	return &newest[0], nil
}

// StartRun has a frozen and approved computation run, as soon as a host can.
func (s *Service) StartRun(ctx context.Context, who Identity, id ID) (Run, error) {
	parent, span := propagation.MapCarrier{}, trace.SpanFromContext(ctx)
	propagation.TraceContext{}.Inject(ctx, parent)
	return update(ctx, s, func(w Writer) (Run, error) {
		x, err := s.onComputation(w, who, id, ComputationRun)
		if err != nil {
			return Run{}, err
		}
		checks, err := s.runnable(w, &x.computation)
		if err != nil {
			return Run{}, err
		}
		for _, c := range checks {
			if !c.OK {
				return Run{}, &Error{Kind: Conflict, Message: c.Found, Hint: c.Hint}
			}
		}
		active, err := w.CountActive(x.workspace.ID)
		if err != nil {
			return Run{}, err
		}
		if active >= maxActive {
			return Run{}, &Error{Kind: Limited, Message: fmt.Sprintf("%d runs of the workspace have not ended, and as many are the most it can have", active), Hint: "wait for some of them to end, or stop some"}
		}
		run := Run{
			ID: NewID(), Computation: id, Workspace: x.workspace.ID, Number: 1, State: RunQueued, Reason: "waits for a host",
			By: x.user.ID, TTL: x.computation.Draft.TTL, Trace: parent["traceparent"], Created: s.now(),
		}
		newest, err := w.Runs(RunFilter{Computation: id}, Page{Limit: 1})
		if err != nil {
			return Run{}, err
		}
		if len(newest) > 0 {
			run.Number = newest[0].Number + 1
		}
		if err := w.PutRun(run); errors.Is(err, ErrTaken) {
			return Run{}, &Error{Kind: Conflict, Message: "somebody started it at the same moment", Hint: "look at the runs"}
		} else if err != nil {
			return Run{}, err
		}
		if err := ServiceEvent(w, run.ID, s.now(), "run.queued", fmt.Sprintf("run %d was asked for by %s", run.Number, x.user.Email), nil); err != nil {
			return Run{}, err
		}
		span.SetAttributes(attribute.String("cocos.run", string(run.ID)))
		w.Signal(TopicQueue)
		w.Signal(WorkspaceTopic(run.Workspace))
		return run, s.did(w, &x, ComputationRun, run.ID, "computation", string(id), "digest", x.computation.Digest.String())
	})
}

// StopRun asks for a run's end. One that no host has ends at once.
func (s *Service) StopRun(ctx context.Context, who Identity, id ID) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onRun(w, who, id, RunStop)
		if err != nil {
			return err
		}
		run, err := w.LockRun(id)
		if err != nil {
			return err
		}
		switch {
		case run.State.Ended():
			return &Error{Kind: Conflict, Message: "the run has ended already"}
		case !run.StopAsked.IsZero():
			return nil
		}
		run.StopAsked = s.now()
		if run.State == RunQueued {
			run.State, run.Ended, run.Reason = RunStopped, s.now(), "stopped by "+x.user.Email+" before a host had it"
		}
		if err := w.PutRun(run); err != nil {
			return err
		}
		if err := ServiceEvent(w, id, s.now(), "run.stop-asked", x.user.Email+" asked for the end of this run", nil); err != nil {
			return err
		}
		if run.Host != "" {
			w.Signal(HostTopic(run.Host))
		}
		w.Signal(WorkspaceTopic(run.Workspace))
		return s.did(w, &x, RunStop, id)
	})
}

// Runs lists a computation's runs.
func (s *Service) Runs(ctx context.Context, who Identity, computation ID, p Page) ([]Run, error) {
	return view(ctx, s, func(r Reader) ([]Run, error) {
		if _, err := s.onComputation(r, who, computation, RunShow); err != nil {
			return nil, err
		}
		return r.Runs(RunFilter{Computation: computation}, p.bounded())
	})
}

// Run is one of them.
func (s *Service) Run(ctx context.Context, who Identity, id ID) (Run, error) {
	x, err := view(ctx, s, func(r Reader) (access, error) { return s.onRun(r, who, id, RunShow) })
	return x.run, err
}

// Check is one thing that a run needs.
type Check struct {
	Name string
	OK   bool
	// Found is what there is; Hint what to do where that isn't enough.
	Found, Hint string
}

// DryRun checks all that a run needs, and runs nothing.
func (s *Service) DryRun(ctx context.Context, who Identity, id ID) ([]Check, error) {
	return view(ctx, s, func(r Reader) ([]Check, error) {
		x, err := s.onComputation(r, who, id, ComputationDryRun)
		if err != nil {
			return nil, err
		}
		checks, err := s.runnable(r, &x.computation)
		if err != nil {
			return nil, err
		}
		hosts, err := r.Hosts()
		if err != nil {
			return nil, err
		}
		d := &x.computation.Draft
		place := Check{Name: "host", OK: true, Found: "a host is there that has the TEE, the room and the image"}
		if host, reason := Place(Run{}, *d, d.TEE, hosts, s.now()); host == "" {
			place.OK, place.Found = false, reason
			place.Hint = "a run would wait until this changes; the operator of the service looks after hosts"
		}
		return append(checks, place), nil
	})
}

// runnable checks all that a run needs but its host.
func (s *Service) runnable(r Reader, c *Computation) ([]Check, error) {
	if c.Manifest == nil {
		res, err := resolve(r, c)
		if err != nil {
			return nil, err
		}
		check := Check{Name: "manifest", Found: "the computation is a draft that can be frozen", Hint: "freeze it"}
		if lacks := res.texts(); len(lacks) > 0 {
			check.Found, check.Hint = "the computation is a draft, and lacks something: "+strings.Join(lacks, "; "), "complete the draft, then freeze it"
		}
		return []Check{check}, nil
	}
	f, err := frozen(c)
	if err != nil {
		return nil, err
	}
	all := []Check{{Name: "manifest", OK: true, Found: "frozen, digest " + f.Digest.String()}}
	given, err := r.Approvals(c.ID)
	if err != nil {
		return nil, err
	}
	approved := Check{Name: "approvals", OK: true, Found: fmt.Sprintf("all %d approvals are there and verified", len(f.Approvals))}
	if len(f.Approvals) == 0 {
		approved.Found = "the manifest asks for none"
	}
	if err := f.CheckApprovals(approvals(given)); err != nil {
		waits, err := waitsFor(r, c, f, given)
		if err != nil {
			return nil, err
		}
		approved = Check{Name: "approvals", Found: fmt.Sprintf("%d of %d approvals are there", len(given), len(f.Approvals)), Hint: "missing: " + strings.Join(waits, ", ")}
	}
	all = append(all, approved)
	revoked, err := revokedKeys(r, c, f)
	if err != nil {
		return nil, err
	}
	inUse := Check{Name: "keys", OK: true, Found: "all keys of the manifest are in use"}
	if len(revoked) > 0 {
		inUse = Check{Name: "keys", Found: "revoked: " + strings.Join(revoked, ", "), Hint: "copy the computation, with other keys"}
	}
	all = append(all, inUse)
	left, err := absent(r, c)
	if err != nil {
		return nil, err
	}
	here := Check{Name: "parties", OK: true, Found: "all parties are members of the workspace"}
	if len(left) > 0 {
		here = Check{Name: "parties", Found: strings.Join(left, "; "), Hint: "have them back, or copy the computation and do without them"}
	}
	all = append(all, here)
	open := Check{Name: "state", OK: true, Found: "nothing else runs it"}
	active, err := activeRun(r, c.ID)
	switch {
	case err != nil:
		return nil, err
	case !c.Archived.IsZero():
		open = Check{Name: "state", Found: "the computation is archived", Hint: "take it out of the archive first"}
	case active != nil:
		open = Check{Name: "state", Found: fmt.Sprintf("run %d has not ended", active.Number), Hint: "stop it first, or wait"}
	}
	return append(all, open), nil
}

// waitsFor are the addresses of those whose approval is missing.
func waitsFor(r Reader, c *Computation, f *manifest.Frozen, given []Approval) ([]string, error) {
	var waits []string
	for _, user := range c.Draft.users() {
		k, err := r.Key(c.Draft.Keys[user])
		if err != nil {
			return nil, err
		}
		if !f.HasRole(k.Public, manifest.Approver) || !approvedAt(given, k.Public).IsZero() {
			continue
		}
		u, err := r.User(user)
		if err != nil {
			return nil, err
		}
		waits = append(waits, u.Email)
	}
	return waits, nil
}
