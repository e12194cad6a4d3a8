package agent_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// simulated is the test computation in the simulated TEE, over plain TLS.
func simulated(t testing.TB) manifest.Manifest {
	m := basic(t)
	m.TEE, m.Approvals = manifest.TEESim, []keys.Public{everybody().approver.Public()}
	return m
}

// approved gives the agent the approval that simulated asks for.
func approved(c *agent.Config) {
	a, err := c.Manifest.Approve(everybody().approver)
	if err != nil {
		panic(err)
	}
	c.Approvals = []manifest.Approval{a}
}

// simVerifier accepts the VMs of a.
type simVerifier struct{ policy attest.SimPolicy }

func accepts(a *sim.Authority) simVerifier {
	_, root := a.Root()
	return simVerifier{attest.SimPolicy{Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{measured[:]}}}
}

func (v simVerifier) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	return sim.Appraise(ctx, e, want, &v.policy, time.Now())
}

func askReceipt(e *env, c agentv1.AgentServiceClient) ([]byte, error) {
	r, err := c.Receipt(e.ctx(), &agentv1.ReceiptRequest{})
	return r.GetReceipt(), err
}

func TestReceipt(t *testing.T) {
	p := everybody()
	for name, tt := range map[string]struct {
		run     runner
		max     int64 // of the result
		state   agent.State
		outcome receipt.Outcome
		reason  receipt.Reason
		exit    int // -1: none
		result  bool
	}{
		"success": {succeed, 0, agent.ResultReady, receipt.Succeeded, "", 0, true},
		"exit status": {func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			_, err := succeed(ctx, job)
			return runtime.Outcome{ExitCode: 3}, err
		}, 0, agent.Failed, receipt.Failed, receipt.AlgorithmFailed, 3, true},
		"signal": {func(context.Context, runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{ExitCode: -1, Signal: "SIGSEGV"}, nil
		}, 0, agent.Failed, receipt.Failed, receipt.AlgorithmFailed, -1, true},
		"a link in results": {func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			out, err := succeed(ctx, job)
			return out, errors.Join(err, os.Symlink("/etc/passwd", filepath.Join(job.Dir, "results", "secret")))
		}, 0, agent.Failed, receipt.Failed, receipt.AlgorithmFailed, 0, true},
		"nothing can be packed": {func(context.Context, runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{}, errors.New("secret interpreter is not there")
		}, 1, agent.Failed, receipt.Failed, receipt.AgentFailed, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := host(t)
			m := simulated(t)
			m.Outputs.ResultMax = tt.max
			e := start(t, m, inTEE(a), approved, withRunner(tt.run))
			consumer := e.as(p.consumer, manifest.Consumer)
			_, err := askReceipt(e, consumer)
			refused(t, err, codes.FailedPrecondition, rpcerr.WrongState)
			e.uploadAll()
			e.wait(tt.state)

			raw, err := askReceipt(e, consumer)
			if err != nil {
				t.Fatal(err)
			}
			f, err := manifest.Freeze(m)
			if err != nil {
				t.Fatal(err)
			}
			r, err := receipt.Verify(t.Context(), raw, receipt.Options{
				Verifier: accepts(a), Launch: attest.LaunchDigestsOf(f.Raw), Manifest: &f, Instance: instance().Public().SPKI(),
			})
			if err != nil {
				t.Fatal(err)
			}
			got := r.Statement.Predicate
			if got.Run != runID || got.Outcome != tt.outcome || got.Reason != tt.reason || (got.ExitStatus == nil) != (tt.exit < 0) ||
				got.ExitStatus != nil && *got.ExitStatus != tt.exit || len(got.Approvals) != 1 || got.HostClock.Finished.Before(got.HostClock.Started) {
				t.Errorf("the receipt says %+v", got)
			}
			info, b, err := e.takeResult(consumer, 0)
			switch {
			case !tt.result:
				refused(t, err, codes.FailedPrecondition, rpcerr.NoResult)
				if got.Result != nil {
					t.Errorf("without a result the receipt has %+v", got.Result)
				}
			case err != nil:
				t.Fatal(err)
			case got.Result == nil || got.Result.SHA256 != manifest.Sum(b) || uint64(got.Result.Size) != info.GetSize():
				t.Errorf("the receipt's result is %+v, want %v", got.Result, info)
			}
			if bytes.Contains(raw, []byte("secret")) || bytes.Contains(r.Evidence.Report, []byte("secret")) {
				t.Error("the receipt has what the algorithm printed or left")
			}
			nothingLeaks(t, e)
		})
	}
}

// It is made once, whoever asks and how many do; nobody but consumers gets it.
func TestReceiptIsMadeOnce(t *testing.T) {
	p, a := everybody(), host(t)
	var reports atomic.Int32
	e := start(t, simulated(t), inTEE(a), approved, func(c *agent.Config) { c.Attester = &counting{Attester: c.Attester, reports: &reports} })
	e.uploadAll()
	e.wait(agent.ResultReady)
	if n := reports.Load(); n != 0 {
		t.Errorf("%d reports were made before anybody asked", n)
	}
	const callers = 8
	var all [callers][]byte
	var errs [callers]error
	var wg sync.WaitGroup
	for i := range callers {
		c := e.as([]keys.Private{p.consumer, p.consumer2}[i%2], manifest.Consumer)
		wg.Go(func() { all[i], errs[i] = askReceipt(e, c) })
	}
	wg.Wait()
	for i := range all {
		if errs[i] != nil || len(all[i]) == 0 || !bytes.Equal(all[i], all[0]) {
			t.Errorf("caller %d got %d bytes, %v; not those of the first", i, len(all[i]), errs[i])
		}
	}
	if n := reports.Load(); n != 2 {
		t.Errorf("%d reports were made, want 2", n)
	}
	for role, key := range map[manifest.Role]keys.Private{
		manifest.AlgorithmProvider: p.algo, manifest.DatasetProvider: p.data, manifest.Approver: p.approver,
	} {
		_, err := askReceipt(e, e.as(key, role))
		refused(t, err, codes.PermissionDenied, rpcerr.RoleNotAllowed)
	}
}

// counting counts reports; the first fail if that is asked for.
type counting struct {
	attest.Attester
	reports *atomic.Int32
	fail    int32
}

func (c *counting) Attest(ctx context.Context, d attest.ReportData) (attest.Evidence, error) {
	if c.reports.Add(1) <= c.fail {
		return attest.Evidence{}, errors.New("the TEE is busy")
	}
	return c.Attester.Attest(ctx, d)
}

// A TEE that fails once has not failed for ever.
func TestReceiptAfterAFailure(t *testing.T) {
	e := start(t, simulated(t), inTEE(host(t)), approved, func(c *agent.Config) {
		c.Attester = &counting{Attester: c.Attester, reports: new(atomic.Int32), fail: 1}
	})
	e.uploadAll()
	e.wait(agent.ResultReady)
	c := e.as(everybody().consumer, manifest.Consumer)
	_, err := askReceipt(e, c)
	refused(t, err, codes.Internal, rpcerr.InternalFailure)
	if raw, err := askReceipt(e, c); err != nil || len(raw) == 0 {
		t.Errorf("asked again: %d bytes, %v", len(raw), err)
	}
}

// waiting never gives a report before its context ends.
type waiting struct {
	attest.Attester
	asked chan struct{}
}

func (w *waiting) Attest(ctx context.Context, _ attest.ReportData) (attest.Evidence, error) {
	close(w.asked)
	<-ctx.Done()
	return attest.Evidence{}, ctx.Err()
}

// A caller that leaves takes nothing from the others, and an agent that stops
// waits for no TEE for ever.
func TestReceiptAndStopping(t *testing.T) {
	w := &waiting{asked: make(chan struct{})}
	e := start(t, simulated(t), inTEE(host(t)), approved, func(c *agent.Config) { w.Attester, c.Attester = c.Attester, w })
	e.uploadAll()
	e.wait(agent.ResultReady)
	p := everybody()
	ctx, leave := context.WithCancel(e.ctx())
	first := make(chan error, 1)
	go func() {
		_, err := e.as(p.consumer, manifest.Consumer).Receipt(ctx, &agentv1.ReceiptRequest{})
		first <- err
	}()
	<-w.asked
	leave()
	if err := <-first; err == nil {
		t.Error("the caller that left has a receipt")
	}
	second := make(chan error, 1)
	c := e.as(p.consumer2, manifest.Consumer)
	if _, err := c.State(e.ctx(), &agentv1.StateRequest{}); err != nil { // connected
		t.Fatal(err)
	}
	go func() {
		_, err := askReceipt(e, c)
		second <- err
	}()
	select {
	case err := <-second:
		t.Errorf("the second caller did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err == nil {
		t.Error("a stopped agent gave a receipt")
	}
}

func TestNoReceiptInAPlainVM(t *testing.T) {
	e := start(t, basic(t))
	c := e.as(everybody().consumer, manifest.Consumer)
	_, err := askReceipt(e, c)
	refused(t, err, codes.FailedPrecondition, rpcerr.NoReceipt)
	e.uploadAll()
	e.wait(agent.ResultReady)
	_, err = askReceipt(e, c)
	refused(t, err, codes.FailedPrecondition, rpcerr.NoReceipt)
}
