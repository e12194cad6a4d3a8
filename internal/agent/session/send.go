package session

import (
	"context"
	"time"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
)

// Private is the only line of an agent's own that the host gets of a VM that
// participants appraise: what it logs may follow what it computes on.
// Participants read the lines themselves.
const Private = "the manifest asks for a TEE: the agent's log lines go to participants only"

// linesAtOnce bounds how long log lines can keep an event waiting.
const linesAtOnce = 64

// send puts the journal on the stream until ctx ends or the stream breaks:
// events from the last acknowledged one on, and log lines that were not sent yet:
// where they are private, the algorithm's alone that every party let out.
func (s *Session) send(ctx context.Context, stream guestv1.GuestService_SessionClient) error {
	s.mu.Lock()
	sent, runID := s.acked, s.launch.GetRunId()
	private := s.parsed.Private()
	s.mu.Unlock()
	if private {
		line := journal.Line{Time: time.Now(), Level: journal.Info, Message: Private}
		if err := stream.Send(&guestv1.SessionRequest{Message: &guestv1.SessionRequest_Log{Log: line.Proto(runID, 0)}}); err != nil {
			return err
		}
	}
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
			if private && !l.Output {
				s.logged = l.Sequence
				continue
			}
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
