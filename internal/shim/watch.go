package shim

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/recent"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
)

const (
	// What is kept for people who look on.
	maxSeenLines = 10_000
	maxSeenBytes = 1 << 20
	// What of the spool they are shown.
	maxSeenEvents     = 256
	maxSeenEventBytes = 1 << 20
	// maxWatchers bounds them.
	maxWatchers = 16
	// watchBatch is how many lines are fetched at once.
	watchBatch = 64
)

func newSeen() *recent.Ring[*eventv1.Log] {
	return recent.New[*eventv1.Log](maxSeenLines, maxSeenBytes)
}

// Watch implements shim.proto.
func (s *apiServer) Watch(r *shimv1.WatchRequest, stream shimv1.ShimService_WatchServer) error {
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d are looking on already", maxWatchers)
	}
	if r.GetEvents() {
		if err := s.sendWaiting(stream); err != nil {
			return err
		}
	}
	seen := s.logs.seen
	begin := seen.Last(int(min(r.GetLines(), maxSeenLines)))
	_, _, end, _ := seen.From(begin, maxSeenLines)
	caughtUp := false
	for next := begin; ; {
		if !caughtUp && next >= end {
			caughtUp = true
			if err := stream.Send(&shimv1.WatchResponse{Item: &shimv1.WatchResponse_CaughtUp{CaughtUp: &shimv1.CaughtUp{}}}); err != nil {
				return err
			}
			if !r.GetFollow() {
				return nil
			}
		}
		lines, missing, after, changed := seen.From(next, watchBatch)
		for _, l := range lines {
			l := &eventv1.Log{RunId: l.GetRunId(), Source: l.GetSource(), Time: l.GetTime(), Level: l.GetLevel(),
				Message: l.GetMessage(), Dropped: l.GetDropped() + missing}
			missing = 0
			if err := stream.Send(&shimv1.WatchResponse{Item: &shimv1.WatchResponse_Log{Log: l}}); err != nil {
				return err
			}
		}
		next = after
		if len(lines) > 0 || !caughtUp {
			continue
		}
		select {
		case <-changed:
		case <-s.released:
			return nil
		case <-s.closing:
			return nil
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// sendWaiting sends the newest of the events that are not acknowledged.
func (s *apiServer) sendWaiting(stream shimv1.ShimService_WatchServer) error {
	waiting := recent.New[spool.Record](maxSeenEvents, maxSeenEventBytes)
	for reader := s.spool.NewReader(); ; {
		record, ok, err := reader.TryNext()
		if err != nil {
			return status.Error(codes.DataLoss, err.Error())
		}
		if !ok {
			break
		}
		waiting.Add(record, len(record.Payload))
	}
	records, _, _, _ := waiting.From(0, maxSeenEvents)
	for _, record := range records {
		e, err := events.Decode(record)
		if err != nil {
			return status.Error(codes.DataLoss, err.Error())
		}
		if err := stream.Send(&shimv1.WatchResponse{Item: &shimv1.WatchResponse_Event{Event: toProto(s.spec.RunID, e)}}); err != nil {
			return err
		}
	}
	return nil
}
