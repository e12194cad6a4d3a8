package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// scheduleEvery is how often the queue is looked at when nobody calls: hosts
	// come and go.
	scheduleEvery = 5 * time.Second
	// schedulePause is between looks, so that many calls are one look; where looks
	// take long, it is so many times as long as one.
	schedulePause = 10 * time.Millisecond
	pauseFactor   = 3
	// sweepEvery is how often hosts that don't answer are looked for at most.
	sweepEvery = time.Second
	// atOnce is how many runs one transaction offers, and reasonsAtOnce of how many
	// it says anew why they wait.
	atOnce        = 32
	reasonsAtOnce = 500
)

// schedule offers runs that wait to hosts, until ctx ends. Every process does;
// the database lets one at a time.
func (f *Fleet) schedule(ctx context.Context) {
	signals, cancel := f.cfg.Store.Listen(computations.TopicQueue)
	defer cancel()
	var looked time.Time // at hosts that don't answer
	called := true
	for ctx.Err() == nil {
		begin := time.Now()
		more, err := f.place(ctx)
		if err != nil && ctx.Err() == nil {
			f.log.Error("runs that wait could not be placed; trying again", "error", err)
		}
		wait := scheduleEvery*3/4 + rand.N(scheduleEvery/2)
		if more {
			wait = 0
		}
		if left := sweepEvery - time.Since(looked); left > 0 && called {
			wait = min(wait, left)
		} else if left <= 0 {
			looked = time.Now()
			if err := f.sweep(ctx); err != nil && ctx.Err() == nil {
				f.log.Error("runs of hosts that don't answer could not be looked after; trying again", "error", err)
			}
		}
		took := time.Since(begin)
		called = false
		select {
		case <-signals:
			called = true
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(max(schedulePause, pauseFactor*took)):
		case <-ctx.Done():
		}
	}
}

// place looks at all runs that wait, oldest first, and offers those that a host can
// take. more: there is reason to look again at once.
//
// Hosts are read before, and not in the transaction that offers, but for those that
// are chosen: they change all the time, and a transaction that has read what others
// change meanwhile has to run again, and again.
func (f *Fleet) place(ctx context.Context) (more bool, err error) {
	waiting := false
	var hosts []computations.Host
	err = f.cfg.Store.View(ctx, func(r computations.Reader) error {
		runs, err := r.Runs(computations.RunFilter{States: []computations.RunState{computations.RunQueued}}, computations.Page{Limit: 1})
		if waiting = len(runs) > 0; !waiting || err != nil {
			return err
		}
		hosts, err = r.Hosts()
		return err
	})
	if err != nil {
		return false, err // how many wait is as it was, as far as is known
	}
	if !waiting {
		f.metrics.queued.Set(0)
		return false, nil
	}
	var offered, left int
	err = f.cfg.Store.Update(ctx, func(w computations.Writer) error {
		offered, left, more = 0, 0, false
		runs, err := queue(w)
		if err != nil || len(runs) == 0 {
			return err
		}
		p := placement{f: f, w: w, hosts: slices.Clone(hosts), demands: map[computations.ID]demand{}, fresh: map[computations.ID]bool{}, hopeless: map[[2]string]string{}}
		for _, run := range inTurns(runs) {
			if p.offers == atOnce || p.reasons == reasonsAtOnce {
				more = true
				break
			}
			ok, err := p.place(run)
			if err != nil {
				return fmt.Errorf("run %s: %w", run.ID, err)
			}
			if ok {
				offered++
			} else {
				left++
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	f.metrics.placed.Add(float64(offered))
	f.metrics.queued.Set(float64(left))
	f.step("queue.offered")
	return more, nil
}

// inTurns takes each workspace's oldest run, then each one's second, and so on: one
// with many keeps no other waiting behind all of them.
func inTurns(runs []computations.Run) []computations.Run {
	turn, turns := map[computations.ID]int{}, make(map[computations.ID]int, len(runs))
	for _, run := range runs {
		turns[run.ID] = turn[run.Workspace]
		turn[run.Workspace]++
	}
	slices.SortStableFunc(runs, func(a, b computations.Run) int { return turns[a.ID] - turns[b.ID] })
	return runs
}

// queue locks and returns all that waits, oldest first.
func queue(w computations.Writer) ([]computations.Run, error) {
	runs, err := w.LockQueue(computations.MaxPage)
	if err != nil || len(runs) < computations.MaxPage {
		return runs, err
	}
	// Those that no host can take must not keep the others waiting.
	var all []computations.Run
	for page := (computations.Page{}); ; {
		more, err := w.Runs(computations.RunFilter{States: []computations.RunState{computations.RunQueued}}, page)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
		if len(more) < computations.MaxPage {
			break
		}
		page.Before = more[len(more)-1].ID
	}
	slices.Reverse(all)
	return all, nil
}

// demand is what a run asks of a host.
type demand struct {
	tee   manifest.TEE
	draft computations.Draft
	// fault is why no host could take it, ever; empty: there is none.
	fault string
}

// placement is one look at the queue.
type placement struct {
	f *Fleet
	w computations.Writer
	// hosts as they were a moment ago; fresh are those that were read again.
	hosts   []computations.Host
	fresh   map[computations.ID]bool
	demands map[computations.ID]demand
	// hopeless is what no host can take, with the reason, for runs that nobody has
	// refused yet.
	hopeless map[[2]string]string
	// offers and reasons count what was written.
	offers, reasons int
}

// place offers a run to a host, or says why none can take it.
func (p *placement) place(run computations.Run) (offered bool, err error) {
	d, err := p.demand(run.Computation)
	if err != nil {
		return false, err
	}
	if d.fault != "" { // the others are not to wait for it
		run.State, run.Ended, run.Reason = computations.RunFailed, p.f.now(), d.fault
		return false, p.put(run, "run.failed")
	}
	key := [2]string{string(d.tee), d.draft.Image}
	host, reason := -1, p.hopeless[key]
	if len(run.Refused) > 0 || reason == "" {
		if host, reason, err = p.choose(run, d); err != nil {
			return false, err
		}
	}
	if host >= 0 {
		// It may have waited long: what it was started with must hold still.
		why, err := computations.Withdrawn(p.w, run.Computation)
		if err != nil {
			return false, err
		}
		if why != "" {
			run.State, run.Ended, run.Reason = computations.RunFailed, p.f.now(), why
			return false, p.put(run, "run.failed")
		}
		p.hosts[host].Active++
		run.State, run.Host, run.Reason = computations.RunOffered, p.hosts[host].ID, reason
		p.w.Signal(computations.HostTopic(run.Host))
		return true, p.put(run, "run.offered")
	}
	if len(run.Refused) == 0 {
		p.hopeless[key] = reason
	}
	if run.Reason == reason {
		return false, nil
	}
	run.Reason = reason
	p.reasons++
	p.w.Signal(computations.RunTopic(run.ID))
	return false, p.w.PutRun(run)
}

// choose finds the index of the host for a run; -1 is none. One that is chosen is
// looked at again, as it may have changed.
func (p *placement) choose(run computations.Run, d demand) (int, string, error) {
	for {
		id, reason := computations.Place(run, d.draft, d.tee, p.hosts, p.f.now())
		if id == "" {
			return -1, reason, nil
		}
		i := slices.IndexFunc(p.hosts, func(h computations.Host) bool { return h.ID == id })
		if p.fresh[id] {
			return i, reason, nil
		}
		h, err := p.w.Host(id)
		if err != nil {
			return -1, "", err
		}
		p.hosts[i], p.fresh[id] = h, true
	}
}

// put writes a run, and says what has become of it.
func (p *placement) put(run computations.Run, kind string) error {
	p.offers++
	if err := p.w.PutRun(run); err != nil {
		return err
	}
	p.w.Signal(computations.WorkspaceTopic(run.Workspace))
	return computations.ServiceEvent(p.w, run.ID, p.f.now(), kind, run.Reason, nil)
}

// demand is what a computation asks of a host: what its frozen manifest says.
func (p *placement) demand(id computations.ID) (demand, error) {
	if d, ok := p.demands[id]; ok {
		return d, nil
	}
	c, err := p.w.Computation(id)
	if err != nil {
		return demand{}, err
	}
	d := demand{draft: computations.Draft{Image: c.Draft.Image}}
	if m, err := manifest.Parse(c.Manifest); err != nil {
		d.fault = fmt.Sprintf("its manifest can't be read: %v", err)
	} else {
		d.tee = m.TEE
	}
	p.demands[id] = d
	return d, nil
}

// sweep looks at hosts that don't answer. Runs of one that was revoked end: it
// tells nothing any more, and may have started them, so that no other may. Of runs
// of one that is away it is said for what they wait.
func (f *Fleet) sweep(ctx context.Context) error {
	var hosts []computations.Host
	err := f.cfg.Store.View(ctx, func(r computations.Reader) (err error) { hosts, err = r.Hosts(); return err })
	if err != nil {
		return err
	}
	for _, h := range hosts {
		switch {
		case h.Active == 0 || h.Live(f.now()):
		case !h.Revoked.IsZero():
			err = errors.Join(err, f.change(ctx, h.ID, atHost, func(h computations.Host, run *computations.Run) (kind string) {
				if h.Revoked.IsZero() {
					return ""
				}
				run.State, run.Ended, run.Reason = computations.RunFailed, f.now(), "its host, "+h.Name+", was revoked"
				return "run.failed"
			}))
		default:
			err = errors.Join(err, f.change(ctx, h.ID, atHost, func(h computations.Host, run *computations.Run) (kind string) {
				if reason := away(run.State, h.Name); run.Reason != reason && !h.Live(f.now()) {
					run.Reason = reason
					return "run.waits"
				}
				return ""
			}))
		}
	}
	return err
}

// change changes a host's runs in some states; to tells the kind of the event that
// says so, or nothing where there is nothing to change.
func (f *Fleet) change(ctx context.Context, host computations.ID, states []computations.RunState, to func(computations.Host, *computations.Run) (kind string)) error {
	return f.cfg.Store.Update(ctx, func(w computations.Writer) error {
		h, err := w.Host(host)
		if err != nil {
			return err
		}
		runs, err := runsOf(w, host, states)
		if err != nil {
			return err
		}
		slices.SortFunc(runs, func(a, b computations.Run) int { return compareIDs(a.ID, b.ID) })
		for _, run := range runs {
			if run, err = w.LockRun(run.ID); err != nil {
				return err
			}
			if run.Host != host || !slices.Contains(states, run.State) {
				continue
			}
			kind := to(h, &run)
			if kind == "" {
				continue
			}
			if err := w.PutRun(run); err != nil {
				return err
			}
			if err := computations.ServiceEvent(w, run.ID, f.now(), kind, run.Reason, nil); err != nil {
				return err
			}
			w.Signal(computations.WorkspaceTopic(run.Workspace))
		}
		return nil
	})
}
