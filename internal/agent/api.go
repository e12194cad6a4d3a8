package agent

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// State implements AgentService.
func (a *Agent) State(ctx context.Context, _ *agentv1.StateRequest) (*agentv1.StateResponse, error) {
	c, err := callauth.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &agentv1.StateResponse{
		State:          string(a.state),
		ManifestDigest: a.cfg.Manifest.Digest[:],
		Reason:         string(a.reason),
		Limit:          a.limit,
	}
	for _, in := range a.inputs {
		p := in.progress()
		if d, ok := a.cfg.Manifest.Dataset(in.ref.name); p.problem != "" && (!ok || !d.Provider.Equal(c.Key)) {
			p.problem = notYours
		}
		r.Inputs = append(r.Inputs, protoProgress(p))
	}
	if own := a.results[c.Key.Fingerprint()]; own != nil && c.Role == manifest.Consumer {
		r.Result = protoResult(own)
	}
	return r, nil
}

// UploadStatus implements AgentService.
func (a *Agent) UploadStatus(ctx context.Context, req *agentv1.UploadStatusRequest) (*agentv1.UploadStatusResponse, error) {
	ref, err := a.providersInput(ctx, agentv1.AgentService_UploadStatus_FullMethodName, req.GetInput())
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &agentv1.UploadStatusResponse{State: protoProgress(a.input(ref).progress())}, nil
}

// Upload implements AgentService.
func (a *Agent) Upload(s grpc.ClientStreamingServer[agentv1.UploadRequest, agentv1.UploadResponse]) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	begin := first.GetBegin()
	if begin == nil {
		return rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.MessageInvalid, Field: "begin", Hint: "send begin with the input and the offset first",
		}, "the first message of an upload is not begin")
	}
	ref, err := a.providersInput(s.Context(), agentv1.AgentService_Upload_FullMethodName, begin.GetInput())
	if err != nil {
		return err
	}
	p, err := a.upload(ref, begin, s)
	if err != nil {
		return err
	}
	return s.SendAndClose(&agentv1.UploadResponse{State: protoProgress(p)})
}

// providersInput returns the input if the caller is its provider.
func (a *Agent) providersInput(ctx context.Context, method string, p *agentv1.InputRef) (inputRef, error) {
	c, err := callauth.CallerFrom(ctx)
	if err != nil {
		return inputRef{}, err
	}
	var ref inputRef
	switch p.GetKind() {
	case agentv1.InputKind_INPUT_KIND_ALGORITHM:
		ref = inputRef{kind: algorithmInput}
	case agentv1.InputKind_INPUT_KIND_DATASET:
		ref = inputRef{datasetInput, p.GetName()}
	case agentv1.InputKind_INPUT_KIND_FILE:
		ref = inputRef{fileInput, p.GetName()}
	}
	if ref.kind == "" || ref.kind == algorithmInput && p.GetName() != "" {
		return inputRef{}, rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.InputUnknown, Field: "input", Hint: "name a dataset or file of the manifest, or the algorithm without a name",
		}, "the input is neither the algorithm nor a file beside it nor a dataset")
	}
	return ref, a.admit(c, method, &ref)
}

// Result implements AgentService.
func (a *Agent) Result(req *agentv1.ResultRequest, s grpc.ServerStreamingServer[agentv1.ResultResponse]) error {
	c, err := callauth.CallerFrom(s.Context())
	if err != nil {
		return err
	}
	res, err := a.takeResult(c)
	if err != nil {
		return err
	}
	if req.GetOffset() > uint64(res.size) {
		return rpcerr.New(codes.OutOfRange, rpcerr.Detail{
			Reason: rpcerr.OffsetMismatch, Field: "offset", Hint: "begin again at 0",
		}, "the result has %d bytes; there is no offset %d", res.size, req.GetOffset())
	}
	if err := s.Send(&agentv1.ResultResponse{Info: protoResult(res)}); err != nil {
		return err
	}
	chunks := bulk.NewSender(s.SendMsg, nil)
	err = res.packing.Pack(&skipWriter{w: chunks, skip: int64(req.GetOffset())}, a.dirs.output())
	if err != nil {
		chunks.Abandon()
		if s.Context().Err() != nil {
			return s.Context().Err()
		}
		// The error may name what the algorithm left.
		return a.internal("packing the result", errors.New("the output folder can't be read as it was"))
	}
	return chunks.Close()
}

// ConfirmResult implements AgentService.
func (a *Agent) ConfirmResult(ctx context.Context, req *agentv1.ConfirmResultRequest) (*agentv1.ConfirmResultResponse, error) {
	c, err := callauth.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	res, err := a.takeResult(c)
	if err != nil {
		return nil, err
	}
	if string(req.GetSha256()) != string(res.digest[:]) {
		return nil, rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.ResultMismatch, Field: "sha256", Hint: "download the result again",
		}, "the confirmed digest is not that of the result")
	}
	return &agentv1.ConfirmResultResponse{}, a.confirm(c)
}

// confirm notes that a consumer has the result; the last one releases it.
func (a *Agent) confirm(c callauth.Caller) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	who := c.Key.Fingerprint()
	if a.taken[who] {
		return nil
	}
	a.taken[who] = true
	a.cfg.Journal.Emit(vm.EventReleased, "a consumer has the result", map[string]string{"consumer": who})
	if len(a.taken) < len(a.cfg.Manifest.Consumers) || a.state != ResultReady {
		return nil
	}
	if err := a.fire(resultTaken, NoReason); err != nil {
		return a.internal("releasing the result", err)
	}
	return nil
}

// takeResult returns what is released to a consumer.
func (a *Agent) takeResult(c callauth.Caller) (*result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	res := a.results[c.Key.Fingerprint()]
	if res == nil || a.state == Stopped {
		return nil, rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
			Reason: rpcerr.NoResult, Hint: "ask for the state, or follow the events, until it is ResultReady or Failed",
		}, "there is no result in state %s", a.state)
	}
	return res, nil
}

// skipWriter drops the first skip bytes.
type skipWriter struct {
	w    *bulk.Sender
	skip int64
}

func (s *skipWriter) Write(b []byte) (int, error) {
	n := int(min(s.skip, int64(len(b))))
	s.skip -= int64(n)
	m, err := s.w.Write(b[n:])
	return n + m, err
}

func protoProgress(p progress) *agentv1.InputState {
	return &agentv1.InputState{
		Input:    &agentv1.InputRef{Kind: protoKinds[p.ref.kind], Name: p.ref.name},
		Received: uint64(p.received), Size: uint64(p.size), Complete: p.complete,
		Pulling: p.pulling, Problem: p.problem,
	}
}

var protoKinds = map[inputKind]agentv1.InputKind{
	algorithmInput: agentv1.InputKind_INPUT_KIND_ALGORITHM,
	datasetInput:   agentv1.InputKind_INPUT_KIND_DATASET,
	fileInput:      agentv1.InputKind_INPUT_KIND_FILE,
}

func protoResult(r *result) *agentv1.ResultInfo {
	return &agentv1.ResultInfo{Size: uint64(r.size), Sha256: r.digest[:]}
}

// Events implements AgentService.
func (a *Agent) Events(req *agentv1.EventsRequest, s grpc.ServerStreamingServer[agentv1.EventsResponse]) error {
	after := req.GetAfter()
	return a.follow(s.Context(), req.GetFollow(), func() error {
		for _, e := range a.cfg.Journal.EventsAfter(after) {
			if err := s.Send(&agentv1.EventsResponse{Event: e.Told(a.cfg.RunID)}); err != nil {
				return fmt.Errorf("sending event %d: %w", e.Sequence, err)
			}
			after = e.Sequence
		}
		return nil
	})
}

// Logs implements AgentService.
func (a *Agent) Logs(req *agentv1.LogsRequest, s grpc.ServerStreamingServer[agentv1.LogsResponse]) error {
	var after uint64
	return a.follow(s.Context(), req.GetFollow(), func() error {
		for {
			lines, dropped := a.cfg.Journal.LinesAfter(after, 256)
			if len(lines) == 0 {
				return nil
			}
			if after == 0 {
				dropped = 0 // before this caller came
			}
			for _, l := range lines {
				if err := s.Send(&agentv1.LogsResponse{Log: l.Proto(a.cfg.RunID, dropped)}); err != nil {
					return fmt.Errorf("sending a log line: %w", err)
				}
				after, dropped = l.Sequence, 0
			}
		}
	})
}

// follow calls send now and, if asked, whenever the journal has more, until the
// caller leaves or the agent stops; what came before the stop is sent.
func (a *Agent) follow(ctx context.Context, on bool, send func() error) error {
	for {
		changed := a.cfg.Journal.Changed()
		closed := !on
		select {
		case <-a.closing:
			closed = true
		default:
		}
		if err := send(); err != nil || closed {
			return err
		}
		select {
		case <-changed:
		case <-a.closing:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
