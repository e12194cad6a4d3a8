package userapi

import (
	"context"
	"slices"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

// maxBatch bounds one message of a watched run, in bytes: clients take 4 MiB.
const maxBatch = 1 << 20

type runs struct {
	computationsv1.UnimplementedRunsServiceServer
	svc *computations.Service
}

func (s runs) StartRun(ctx context.Context, q *computationsv1.StartRunRequest) (*computationsv1.StartRunResponse, error) {
	r, err := s.svc.StartRun(ctx, who(ctx), computations.ID(q.GetComputationId()))
	return &computationsv1.StartRunResponse{Run: run(r)}, err
}

func (s runs) StopRun(ctx context.Context, q *computationsv1.StopRunRequest) (*computationsv1.StopRunResponse, error) {
	return &computationsv1.StopRunResponse{}, s.svc.StopRun(ctx, who(ctx), computations.ID(q.GetRunId()))
}

func (s runs) ListRuns(ctx context.Context, q *computationsv1.ListRunsRequest) (*computationsv1.ListRunsResponse, error) {
	c, err := cursorOf(q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, err
	}
	p, err := c.page()
	if err != nil {
		return nil, err
	}
	list, err := s.svc.Runs(ctx, who(ctx), computations.ID(q.GetComputationId()), p)
	if err != nil {
		return nil, err
	}
	var r computationsv1.ListRunsResponse
	r.Runs, r.NextPageToken = cut(c, list, func(r computations.Run) string { return string(r.ID) }, run)
	return &r, nil
}

func (s runs) GetRun(ctx context.Context, q *computationsv1.GetRunRequest) (*computationsv1.GetRunResponse, error) {
	r, err := s.svc.Run(ctx, who(ctx), computations.ID(q.GetRunId()))
	return &computationsv1.GetRunResponse{Run: run(r)}, err
}

func (s runs) ListEntries(ctx context.Context, q *computationsv1.ListEntriesRequest) (*computationsv1.ListEntriesResponse, error) {
	c, err := cursorOf(q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, err
	}
	f := computations.EntryFilter{
		After: q.GetAfter(), Backward: q.GetNewestFirst(), Limit: c.size + 1,
		Types: words[computations.EntryType](q.GetTypes()), Sources: q.GetSources(), Levels: q.GetLevels(),
		Kind: q.GetKind(), Text: q.GetText(),
	}
	if f.After < 0 {
		return nil, invalid("after", "is %d; expected a position", f.After)
	}
	if n, err := c.number(); err != nil {
		return nil, err
	} else if n > 0 {
		f.After = n
	}
	if f.From, err = moment("from", q.GetFrom()); err != nil {
		return nil, err
	}
	if f.To, err = moment("to", q.GetTo()); err != nil {
		return nil, err
	}
	list, err := s.svc.Entries(ctx, who(ctx), computations.ID(q.GetRunId()), f)
	if err != nil {
		return nil, err
	}
	var r computationsv1.ListEntriesResponse
	r.Entries, r.NextPageToken = cut(c, list, func(e computations.Entry) string { return strconv.FormatInt(e.Position, 10) }, entry)
	return &r, nil
}

func (s runs) Watch(q *computationsv1.WatchRequest, stream grpc.ServerStreamingServer[computationsv1.WatchResponse]) error {
	if q.GetAfter() < 0 {
		return invalid("after", "is %d; expected a position", q.GetAfter())
	}
	ctx := stream.Context()
	return s.svc.Watch(ctx, who(ctx), computations.ID(q.GetRunId()), q.GetAfter(), func(entries []computations.Entry, r computations.Run) error {
		for _, batch := range batches(each(entries, entry), maxBatch) {
			if err := stream.Send(&computationsv1.WatchResponse{Entries: batch, Run: run(r)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// batches splits entries so that no message is much larger than most; none is one
// batch, too.
func batches(entries []*computationsv1.Entry, most int) [][]*computationsv1.Entry {
	var all [][]*computationsv1.Entry
	for from, size := 0, 0; ; {
		i := slices.IndexFunc(entries[from:], func(e *computationsv1.Entry) bool {
			size += proto.Size(e)
			return size > most
		})
		if i < 0 {
			return append(all, entries[from:])
		}
		to := from + max(i, 1) // one alone may be larger
		if to == len(entries) {
			return append(all, entries[from:])
		}
		all = append(all, entries[from:to])
		from, size = to, 0
	}
}

func (s runs) SubmitReceipt(ctx context.Context, q *computationsv1.SubmitReceiptRequest) (*computationsv1.SubmitReceiptResponse, error) {
	return &computationsv1.SubmitReceiptResponse{}, s.svc.SubmitReceipt(ctx, who(ctx), computations.ID(q.GetRunId()), q.GetReceipt())
}

func (s runs) GetReceipt(ctx context.Context, q *computationsv1.GetReceiptRequest) (*computationsv1.GetReceiptResponse, error) {
	r, err := s.svc.Receipt(ctx, who(ctx), computations.ID(q.GetRunId()))
	return &computationsv1.GetReceiptResponse{
		Receipt: r.Raw, By: string(r.By), At: stamp(r.At), Simulated: r.Simulated, Succeeded: r.Succeeded,
	}, err
}

func run(r computations.Run) *computationsv1.Run {
	return &computationsv1.Run{
		Id: string(r.ID), ComputationId: string(r.Computation), Number: r.Number, State: string(r.State), Reason: r.Reason,
		By: string(r.By), HostId: string(r.Host), AgentAddress: r.AgentAddress, AgentKey: r.AgentKey, AgentState: r.AgentState,
		Simulated: r.Simulated, StopAsked: stamp(r.StopAsked), Ttl: span(r.TTL),
		Created: stamp(r.Created), Started: stamp(r.Started), Ended: stamp(r.Ended),
	}
}

func entry(e computations.Entry) *computationsv1.Entry {
	return &computationsv1.Entry{
		Position: e.Position, Type: string(e.Type), Source: e.Source, Sequence: e.Sequence, Time: stamp(e.Time),
		Level: e.Level, Kind: e.Kind, Message: e.Message, Attributes: e.Attributes, Dropped: e.Dropped, Committed: stamp(e.Committed),
	}
}
