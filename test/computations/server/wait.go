package server

import (
	"context"
	"fmt"
	"slices"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
)

// Reply waits for the answer to a run's request. The address is the agent's
// HOST:PORT when the run was accepted.
func (s *Server) Reply(ctx context.Context, runID string) (reply *managerv1.RunReply, address string, err error) {
	err = s.Wait(ctx, "the reply to run "+runID, func() bool {
		r := s.runs[runID]
		if r == nil || r.reply == nil {
			return false
		}
		reply, address = r.reply, r.address
		return true
	})
	return reply, address, err
}

// StopReply waits for the n-th answer, from 1, to a run's stop requests.
func (s *Server) StopReply(ctx context.Context, runID string, n int) (reply *managerv1.StopReply, err error) {
	err = s.Wait(ctx, "the reply to the stop of run "+runID, func() bool {
		r := s.runs[runID]
		if r == nil || len(r.stops) < n {
			return false
		}
		reply = r.stops[n-1]
		return true
	})
	return reply, err
}

// Event waits for the first event of a run that match accepts; what names it in
// the error.
func (s *Server) Event(ctx context.Context, runID, what string, match func(*eventv1.Event) bool) (event *eventv1.Event, err error) {
	err = s.Wait(ctx, what+" of run "+runID, func() bool {
		r := s.runs[runID]
		if r == nil {
			return false
		}
		i := slices.IndexFunc(r.events, match)
		if i < 0 {
			return false
		}
		event = r.events[i]
		return true
	})
	return event, err
}

// EventOfKind waits for the first event of a kind.
func (s *Server) EventOfKind(ctx context.Context, runID, kind string) (*eventv1.Event, error) {
	return s.Event(ctx, runID, "event "+kind, func(e *eventv1.Event) bool { return e.GetKind() == kind })
}

// Hello waits for the n-th greeting of a Manager, from 1.
func (s *Server) Hello(ctx context.Context, n int) (hello *managerv1.Hello, err error) {
	err = s.Wait(ctx, "a Manager to connect", func() bool {
		if len(s.hellos) < n {
			return false
		}
		hello = s.hellos[n-1]
		return true
	})
	return hello, err
}

// Events returns the events of a run so far, each once, as they came.
func (s *Server) Events(runID string) []*eventv1.Event {
	return look(s, runID, func(r *run) []*eventv1.Event { return r.events })
}

// Arrivals returns every event of a run as it came, repetitions and those that
// were lost on purpose included.
func (s *Server) Arrivals(runID string) []*eventv1.Event {
	return look(s, runID, func(r *run) []*eventv1.Event { return r.arrivals })
}

// Logs returns the log lines of a run so far.
func (s *Server) Logs(runID string) []*eventv1.Log {
	return look(s, runID, func(r *run) []*eventv1.Log { return r.logs })
}

func look[T any](s *Server, runID string, field func(*run) []T) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[runID]
	if r == nil {
		return nil
	}
	return slices.Clone(field(r))
}

// Wait returns when done does; it is asked again whenever something has come.
// It is called with the server's lock held.
func (s *Server) Wait(ctx context.Context, what string, done func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := done(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}

// Offered tells whether a run's request was sent to a Manager.
func (s *Server) Offered(runID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[runID]
	return r != nil && r.instance != ""
}
