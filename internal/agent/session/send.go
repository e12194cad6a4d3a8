package session

import (
	"context"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
)

// linesAtOnce bounds how long log lines can keep an event waiting.
const linesAtOnce = 64

// send puts the journal on the stream until ctx ends or the stream breaks:
// events from the last acknowledged one on, log lines that were not sent yet.
func (s *Session) send(ctx context.Context, stream guestv1.GuestService_SessionClient) error {
	s.mu.Lock()
	sent, runID := s.acked, s.launch.GetRunId()
	s.mu.Unlock()
	for {
		changed := s.opts.Journal.Changed()
		for _, e := range s.opts.Journal.EventsAfter(sent) {
			m := &guestv1.SessionRequest_Event{Event: e.Proto(runID)}
			if err := stream.Send(&guestv1.SessionRequest{Message: m}); err != nil {
				return err
			}
			sent = e.Sequence
		}
		lines, dropped := s.opts.Journal.LinesAfter(s.logged, linesAtOnce)
		for _, l := range lines {
			m := &guestv1.SessionRequest_Log{Log: l.Proto(runID, dropped)}
			if err := stream.Send(&guestv1.SessionRequest{Message: m}); err != nil {
				return err
			}
			s.logged, dropped = l.Sequence, 0
		}
		if len(lines) == linesAtOnce {
			continue // there may be more
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
