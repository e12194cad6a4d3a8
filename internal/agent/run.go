package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

// defaultResultMax bounds the result archive where the manifest does not, in
// bytes.
const defaultResultMax = 2 << 30

// Names in the result archive.
const (
	resultsName = "results" // folder; only if the algorithm succeeded
	stdoutName  = "stdout.txt"
	stderrName  = "stderr.txt"
	failureName = "failure.txt" // only if it failed: why
)

// Runner runs one verified algorithm.
type Runner interface {
	Run(ctx context.Context, job runtime.Job) (runtime.Outcome, error)
}

// result is what consumers can take.
type result struct {
	size   int64
	digest manifest.Digest
}

// startIfComplete starts the algorithm when the last input is there. a.mu is
// held.
func (a *Agent) startIfComplete() {
	for _, in := range a.inputs {
		if !in.complete {
			return
		}
	}
	if err := a.fire(inputsComplete, NoReason); err != nil {
		// Stopped while the last input came.
		a.cfg.Log.Info("the algorithm is not started", "why", err.Error())
		return
	}
	a.running.Go(func() { a.run(a.runCtx) })
}

// run is the computation, from its inputs to the archive for its consumers.
func (a *Agent) run(ctx context.Context) {
	began := time.Now()
	outcome, err := a.execute(ctx)
	ended := ending{started: began, finished: time.Now(), exitStatus: exitStatus(outcome, err)}
	if ctx.Err() != nil {
		return // stopping; whoever stops waits for us
	}
	t, reason, why := judge(outcome, err)
	res, err := a.collect(t == runSucceeded, why)
	if err != nil && t == runSucceeded {
		t, reason, why = runFailed, AlgorithmFailed, err.Error()
		res, err = a.collect(false, why)
	}
	if err != nil {
		// Its output does not fit even without results: say why, and only that.
		res, err = a.explain(why)
	}
	if err != nil {
		// The error may name what the algorithm left.
		t, reason = runFailed, AgentFailed
		a.cfg.Log.Error("packing the output failed; there is nothing for the consumers")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.result = &res
	}
	a.ended = &ended
	if err := a.fire(t, reason); err != nil {
		a.cfg.Log.Info("the run ended too late", "why", err.Error())
	}
}

func (a *Agent) execute(ctx context.Context) (out runtime.Outcome, err error) {
	stdout, err := os.Create(filepath.Join(a.dirs.output(), stdoutName))
	if err != nil {
		return out, err
	}
	defer stdout.Close()
	stderr, err := os.Create(filepath.Join(a.dirs.output(), stderrName))
	if err != nil {
		return out, err
	}
	defer stderr.Close()
	algorithm := a.cfg.Manifest.Algorithm
	return a.cfg.Runner.Run(ctx, runtime.Job{
		Type:    algorithm.Type,
		Program: a.dirs.program(),
		Image:   algorithm.Image,
		Args:    algorithm.Args,
		Env:     algorithm.Env,
		Limits:  algorithm.Limits,
		Dir:     a.dirs.work(),
		Stdout:  stdout,
		Stderr:  stderr,
	})
}

// judge says what a run means to the host (reason) and to consumers (why).
func judge(o runtime.Outcome, err error) (t trigger, reason Reason, why string) {
	switch {
	case errors.Is(err, runtime.ErrResults), errors.Is(err, runtime.ErrImage):
		return runFailed, AlgorithmFailed, err.Error()
	case err != nil:
		return runFailed, AgentFailed, fmt.Sprintf("the algorithm could not be run: %v", err)
	case o.LimitExceeded != "":
		return runFailed, AlgorithmFailed, fmt.Sprintf("the algorithm reached the limit /algorithm/limits/%s of the manifest or the agent's default for it, and was ended", o.LimitExceeded)
	case o.Signal != "":
		return runFailed, AlgorithmFailed, fmt.Sprintf("the algorithm was ended by the signal %s", o.Signal)
	case o.ExitCode != 0:
		return runFailed, AlgorithmFailed, fmt.Sprintf("the algorithm exited with status %d", o.ExitCode)
	}
	return runSucceeded, NoReason, ""
}

// collect makes the output folder what consumers get, and digests its archive.
func (a *Agent) collect(succeeded bool, why string) (result, error) {
	results := filepath.Join(a.dirs.output(), resultsName)
	if succeeded {
		if err := os.Rename(a.dirs.results(), results); err != nil {
			return result{}, err
		}
	} else {
		if err := os.RemoveAll(results); err != nil {
			return result{}, err
		}
		if err := os.WriteFile(filepath.Join(a.dirs.output(), failureName), []byte(why+"\n"), 0o600); err != nil {
			return result{}, err
		}
	}
	// Inputs are not needed any more; in memory their room is.
	if err := errors.Join(os.RemoveAll(a.dirs.work()), os.RemoveAll(a.dirs.program())); err != nil {
		return result{}, err
	}
	h := sha256.New()
	limit := a.cfg.Manifest.Outputs.ResultMax
	if limit == 0 {
		limit = defaultResultMax
	}
	w := &limitedWriter{w: h, max: limit}
	if err := archive.Pack(w, a.dirs.output()); err != nil {
		return result{}, err
	}
	return result{size: w.n, digest: manifest.Digest(h.Sum(nil))}, nil
}

func (a *Agent) explain(why string) (result, error) {
	for _, name := range []string{stdoutName, stderrName} {
		if err := ignoreMissing(os.Remove(filepath.Join(a.dirs.output(), name))); err != nil {
			return result{}, err
		}
	}
	return a.collect(false, why+"\nstandard output and error do not fit into /outputs/result_max either")
}

// limitedWriter fails instead of taking more than max bytes.
type limitedWriter struct {
	w   io.Writer
	n   int64
	max int64
}

func (l *limitedWriter) Write(b []byte) (int, error) {
	if int64(len(b)) > l.max-l.n {
		return 0, fmt.Errorf("the result archive is larger than the %d bytes that /outputs/result_max or the agent's default allows", l.max)
	}
	l.n += int64(len(b))
	return l.w.Write(b)
}
