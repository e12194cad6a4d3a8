package agent

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/receipt"
)

// receiptTime bounds the making of a receipt: two reports of a TEE that gives
// about one per second, to connections too.
const receiptTime = 2 * time.Minute

// making is a receipt that is made or being made. raw and err are there when
// done is closed.
type making struct {
	done chan struct{}
	raw  []byte
	err  error
}

// Receipt implements AgentService.
func (a *Agent) Receipt(ctx context.Context, _ *agentv1.ReceiptRequest) (*agentv1.ReceiptResponse, error) {
	if a.cfg.Attester == nil {
		return nil, rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
			Reason: rpcerr.NoReceipt, Hint: "take the result without; only a manifest that asks for a TEE brings receipts",
		}, "this is a plain VM: nothing could vouch for a receipt")
	}
	m, err := a.askReceipt()
	if err != nil {
		return nil, err
	}
	select {
	case <-m.done:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if m.err != nil {
		return nil, a.internal("making the receipt", m.err)
	}
	return &agentv1.ReceiptResponse{Receipt: m.raw}, nil
}

// askReceipt returns the one receipt, whose making the first caller begins. One
// that failed is made anew for the next caller.
func (a *Agent) askReceipt() (*making, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.receipt != nil {
		return a.receipt, nil
	}
	if a.ended == nil || a.state == Stopped {
		return nil, rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
			Reason: rpcerr.WrongState, Hint: "ask for the state, or follow the events, until it is ResultReady or Failed",
		}, "there is no receipt in state %s", a.state)
	}
	m := &making{done: make(chan struct{})}
	a.receipt = m
	req := a.receiptRequest()
	// Whoever stops waits for it, as for the algorithm.
	a.running.Go(func() {
		ctx, cancel := context.WithTimeout(a.runCtx, receiptTime)
		defer cancel()
		m.raw, m.err = receipt.Make(ctx, req)
		if m.err != nil {
			a.mu.Lock()
			a.receipt = nil
			a.mu.Unlock()
		}
		close(m.done)
	})
	return m, nil
}

// receiptRequest is what the receipt is to say. a.mu is held, and the run has
// ended.
func (a *Agent) receiptRequest() receipt.Request {
	req := receipt.Request{
		Attester: a.cfg.Attester, Instance: a.cfg.Instance,
		Manifest: a.cfg.Manifest, Approvals: a.cfg.Approvals, Run: a.cfg.RunID,
		Outcome: receipt.Succeeded, ExitStatus: a.ended.exitStatus,
		Signal: a.ended.outcome.Signal, Limit: a.ended.outcome.LimitExceeded,
		Started: a.ended.started, Finished: a.ended.finished,
	}
	if a.state == Failed {
		req.Outcome, req.Reason = receipt.Failed, receipt.Reason(a.reason)
	}
	if a.results == nil {
		return req
	}
	divided := len(a.cfg.Manifest.Outputs.Release) > 0
	for _, c := range a.cfg.Manifest.Consumers {
		r := a.results[c.Fingerprint()]
		if !divided {
			req.Result = &receipt.Result{SHA256: r.digest, Size: r.size}
			break
		}
		req.Results = append(req.Results, receipt.Share{Consumer: c.Fingerprint(), SHA256: r.digest})
	}
	return req
}
