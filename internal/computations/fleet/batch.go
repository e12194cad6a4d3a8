package fleet

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	// maxRefusals is how many hosts may refuse a run before nobody else is asked:
	// then it is the run.
	maxRefusals = 10
	// lastWords is how many events of a run's end decide what it came to.
	lastWords = 500
)

// batch is what is committed at once. All but f and portions is of one attempt.
type batch struct {
	f        *Fleet
	portions []portion

	w computations.Writer
	// runs are locked; nil is one that isn't there. What doesn't change a run, of a
	// host that is known to have it, needs no look at it.
	runs  map[computations.ID]*computations.Run
	dirty map[computations.ID]bool
	told  map[computations.ID]bool
	hosts map[computations.ID]*computations.Host
	// strange is what hosts said of runs that aren't theirs, by host.
	strange map[string]computations.ID
	// beyond are events of more than a run may have, by host.
	beyond map[string]computations.ID
	// full are runs of which no more log lines are kept.
	full map[computations.ID]bool
	// over counts the lines that were not.
	events, lines, over int
}

func compareIDs(a, b computations.ID) int { return strings.Compare(string(a), string(b)) }

// apply writes it all. It may be called again, and begins anew then.
func (b *batch) apply(w computations.Writer) error {
	b.w, b.events, b.lines, b.over = w, 0, 0, 0
	b.runs, b.hosts = map[computations.ID]*computations.Run{}, map[computations.ID]*computations.Host{}
	b.dirty, b.told, b.full = map[computations.ID]bool{}, map[computations.ID]bool{}, map[computations.ID]bool{}
	b.strange, b.beyond = map[string]computations.ID{}, map[string]computations.ID{}
	if err := b.lock(); err != nil {
		return err
	}
	var entries []computations.Entry
	addresses := map[computations.ID]string{}
	now := b.f.now()
	for _, p := range b.portions {
		addresses[p.s.host] = p.s.who.address
		for i := range p.items {
			it := &p.items[i]
			if it.host != nil {
				if err := b.standing(p.s, it); err != nil {
					return err
				}
				continue
			}
			run, locked := b.runs[it.run]
			if locked && (run == nil || run.Host != p.s.host) || !locked && !p.s.queue.owned[it.run] {
				b.strange[p.s.name] = it.run
				continue
			}
			switch {
			case it.beyond:
				b.beyond[p.s.name] = it.run
			case it.entry != nil && it.entry.Type == computations.EntryLog && p.s.queue.full[it.run]:
				b.over++
			case it.entry != nil:
				// Who tells of a run has it. Else a host could tell under another's keys,
				// refuse the run, and what its next host tells would count as told.
				if locked && run.State == computations.RunOffered {
					why(run, computations.RunStarting, "its host tells of it")
					b.dirty[run.ID] = true
				}
				e := *it.entry
				e.Committed = now
				if p.s.queue.full[it.run] {
					shorten(&e)
				}
				entries = append(entries, e)
			case it.reply.stop:
				if err := b.stopped(p.s, run, it.reply.refused); err != nil {
					return err
				}
			default:
				if err := b.replied(p.s, run, it.reply); err != nil {
					return err
				}
			}
		}
	}
	if err := b.append(entries, addresses); err != nil {
		return err
	}
	return b.put()
}

// lock locks the runs that are spoken of, in order: batches of several processes
// wait for each other, and not for ever.
func (b *batch) lock() error {
	ids := map[computations.ID]bool{}
	for _, p := range b.portions {
		for i := range p.items {
			if it := &p.items[i]; it.run != "" && (it.changes() || !p.s.queue.owned[it.run]) {
				ids[it.run] = true
			}
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(ids), compareIDs) {
		run, err := b.w.LockRun(id)
		switch {
		case errors.Is(err, computations.ErrNoRow):
			b.runs[id] = nil
		case err != nil:
			return err
		default:
			b.runs[id] = &run
		}
	}
	return nil
}

// changes tells whether an item can change its run.
func (it *item) changes() bool {
	if it.entry == nil {
		return !it.beyond
	}
	_, does := steps[it.entry.Kind]
	return it.entry.Type == computations.EntryEvent && (does || it.entry.Kind == vm.EventRemoved)
}

// append keeps entries, and lets events that are new do what they do.
func (b *batch) append(entries []computations.Entry, addresses map[computations.ID]string) error {
	if len(entries) == 0 {
		return nil
	}
	kept, err := b.w.Append(entries)
	if err != nil {
		return err
	}
	var ends []*computations.Run
	for i := range kept {
		e := &kept[i]
		b.told[e.Run] = true
		most, room := b.f.cfg.MaxEntries, b.f.cfg.MaxBytes
		before := e.Position-1 >= most || e.Told-e.Bytes() >= room
		b.full[e.Run] = e.Position >= most || e.Told >= room
		if b.full[e.Run] && !before {
			full := fmt.Sprintf("it has told %d entries of %d bytes: no more lines of its log are kept, and of its events no long texts", e.Position, e.Told)
			if err := computations.ServiceEvent(b.w, e.Run, b.f.now(), "run.log-full", full, nil); err != nil {
				return err
			}
		}
		if e.Type != computations.EntryEvent {
			b.lines++
			continue
		}
		b.events++
		run := b.runs[e.Run] // there for what changes it
		if s, ok := steps[e.Kind]; ok && s.source == e.Source {
			odd := s.do(run, e, addresses[run.Host])
			b.dirty[run.ID] = true
			if err := b.doubt(run, odd); err != nil {
				return err
			}
		}
		if e.Kind == vm.EventRemoved && e.Source == sourceManager && !run.State.Ended() {
			ends = append(ends, run)
		}
	}
	for _, run := range ends {
		if err := b.end(run); err != nil {
			return err
		}
	}
	return nil
}

// shortText is what is kept of each text of an event that comes beyond what a run may
// tell, in bytes: enough for all that changes a run.
const shortText = 128

// shorten keeps of an event what changes its run.
func shorten(e *computations.Entry) {
	e.Message = telemetry.Clean(e.Message, shortText)
	short := map[string]string{}
	for _, name := range stepAttributes {
		if v, ok := e.Attributes[name]; ok {
			short[name] = telemetry.Clean(v, shortText)
		}
	}
	e.Attributes = short
}

// end is what a run has come to, now that nothing is left of its VM.
func (b *batch) end(run *computations.Run) error {
	told, err := b.w.Entries(run.ID, computations.EntryFilter{Backward: true, Limit: lastWords, Types: []computations.EntryType{computations.EntryEvent}})
	if err != nil {
		return err
	}
	run.State, run.Reason = outcome(run, told)
	return b.ended(run)
}

// ended writes down that a run has ended, as its state says.
func (b *batch) ended(run *computations.Run) error {
	run.Ended = b.f.now()
	b.dirty[run.ID] = true
	b.w.Signal(computations.TopicQueue) // there is room
	return b.event(run, "run."+string(run.State), run.Reason)
}

func (b *batch) event(run *computations.Run, kind, message string) error {
	return computations.ServiceEvent(b.w, run.ID, b.f.now(), kind, message, nil)
}

// doubt says what of a host's words was dropped, as it has not its form.
func (b *batch) doubt(run *computations.Run, odd string) error {
	if odd == "" {
		return nil
	}
	return b.event(run, "run.doubted", odd)
}

// replied takes a host's answer to a run's request. Only the first one counts, and
// a no only on the stream that the host has now: on a newer one it was asked anew,
// and may have agreed.
func (b *batch) replied(s *stream, run *computations.Run, r *reply) error {
	if run.State != computations.RunOffered {
		return nil
	}
	h, err := b.hostRow(s)
	if err != nil {
		return err
	}
	if r.refused == nil {
		b.dirty[run.ID] = true
		if err := b.doubt(run, accept(run, s.who.address, r.port)); err != nil {
			return err
		}
		if h != nil {
			h.Report.Refusals = 0
		}
		if !run.StopAsked.IsZero() {
			b.w.Signal(computations.HostTopic(s.host)) // it can be stopped now
		}
		return nil
	}
	if h == nil {
		return nil
	}
	b.dirty[run.ID] = true
	reason := s.name + " refused it: " + r.refused.text
	if err := b.event(run, computations.EventRefused, reason); err != nil {
		return err
	}
	run.Host, run.State, run.Reason = "", computations.RunQueued, reason
	if r.refused.passing {
		// The host is full without looking it; until it says how it stands. Others
		// come first from now on, lest one that always says so keeps a run for ever.
		h.Report.Closed = true
		h.Report.Refusals = min(h.Report.Refusals+1, maxRefusals)
	} else {
		run.Refused = append(run.Refused, s.host)
	}
	switch {
	case !run.StopAsked.IsZero():
		run.State, run.Reason = computations.RunStopped, "stopped before a host had it"
		return b.ended(run)
	case len(run.Refused) >= maxRefusals:
		run.State, run.Reason = computations.RunFailed, fmt.Sprintf("%d hosts refused it; the last one: %s", len(run.Refused), r.refused.text)
		return b.ended(run)
	}
	b.w.Signal(computations.TopicQueue)
	return nil
}

// stopped takes a host's answer to the request to stop a run. Nothing follows but
// where the host says that it never had the run: then it never will, for what was
// asked before was worked on before.
func (b *batch) stopped(s *stream, run *computations.Run, refused *refusal) error {
	if refused == nil || run.State.Ended() || run.StopAsked.IsZero() {
		return nil
	}
	if !refused.unknown {
		return b.event(run, "run.stop-failed", s.name+" could not end it, and is asked again: "+refused.text)
	}
	b.dirty[run.ID] = true
	if run.State == computations.RunOffered {
		run.State, run.Reason = computations.RunStopped, "stopped before a host had it"
	} else {
		run.State, run.Reason = computations.RunFailed, "its host, "+s.name+", no longer holds it"
	}
	return b.ended(run)
}

// standing takes how a host stands.
func (b *batch) standing(s *stream, it *item) error {
	h, err := b.hostRow(s)
	if err != nil || h == nil {
		return err
	}
	was := h.Report
	it.host(&h.Report)
	h.Contact, h.Connected = b.f.now(), true
	if roomIn(was) <= 0 && roomIn(h.Report) > 0 {
		b.w.Signal(computations.TopicQueue)
	}
	return nil
}

// roomIn is how much room a report tells of.
func roomIn(r computations.HostReport) int {
	switch {
	case r.Closed:
		return 0
	case r.Capacity == 0:
		return 1
	}
	return r.Capacity - r.Running
}

// hostRow is the stream's host, to be put at the end; nil if another stream has
// taken over.
func (b *batch) hostRow(s *stream) (*computations.Host, error) {
	if h, ok := b.hosts[s.host]; ok {
		return h, nil
	}
	h, err := b.w.Host(s.host)
	if err != nil {
		return nil, err
	}
	if h.Process != s.mark {
		b.hosts[s.host] = nil
		return nil, nil
	}
	b.hosts[s.host] = &h
	return &h, nil
}

// put writes what has changed, and calls those who wait for it.
func (b *batch) put() error {
	for _, id := range slices.SortedFunc(maps.Keys(b.dirty), compareIDs) {
		run := b.runs[id]
		if err := b.w.PutRun(*run); err != nil {
			return err
		}
		b.told[id] = true
		b.w.Signal(computations.WorkspaceTopic(run.Workspace))
	}
	for id := range b.told {
		b.w.Signal(computations.RunTopic(id))
	}
	for _, id := range slices.SortedFunc(maps.Keys(b.hosts), compareIDs) {
		if h := b.hosts[id]; h != nil {
			if err := b.w.PutHost(*h); err != nil {
				return err
			}
		}
	}
	return nil
}

// tellOperators tells of hosts that speak of what isn't theirs, and of runs that
// tell more than they may. Hosts are answered as for anything else: an honest one,
// which has the run of an earlier time or of another service, gets rid of it.
func (b *batch) tellOperators() {
	for host, run := range b.beyond {
		b.f.log.Warn("a run has told more events than are kept; the rest is acknowledged and dropped", "host", host, "run", string(run), "kept", maxSequence)
	}
	for host, run := range b.strange {
		b.f.metrics.strange.Inc()
		b.f.log.Warn("a host speaks of a run that it was not given; nothing of it is kept", "host", host, "run", string(run))
	}
}
