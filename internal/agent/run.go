package agent

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ultravioletrs/cocos/internal/runtime"
)

// Runner runs one verified algorithm.
type Runner interface {
	Run(ctx context.Context, job runtime.Job) (runtime.Outcome, error)
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

// run is the computation, from its inputs to the archives for its consumers.
func (a *Agent) run(ctx context.Context) {
	a.cfg.Log.Info("the algorithm starts", "landlock_abi", runtime.LandlockABI())
	end := ending{started: time.Now()}
	outcome, err := a.execute(ctx)
	end.finished = time.Now()
	if ctx.Err() != nil {
		return // stopping; whoever stops waits for us
	}
	end.judge(outcome, err)
	if err := a.checkRegions(); err != nil {
		// Whatever the algorithm made of it.
		end.fails(StorageChanged, err.Error(), err.Error())
	}
	a.releaseRegions()
	results, err := a.collect(&end)
	if err != nil && end.succeeded() {
		end.fails(AlgorithmFailed, err.Error(), "the results can't be packed, or their archive is larger than /outputs/result_max or the agent's default allows")
		results, err = a.collect(&end)
	}
	if err != nil {
		// Its output does not fit even without results: say why, and only that.
		results, err = a.explain(&end)
	}
	if err != nil {
		// The error may name what the algorithm left.
		end.fails(AgentFailed, "", "")
		results = nil
		a.cfg.Log.Error("packing the output failed; there is nothing for the consumers")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.results, a.ended = results, &end
	if err := a.fireLimit(end.trigger(), end.reason, end.outcome.LimitExceeded); err != nil {
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
	toOut, toErr := io.Writer(stdout), io.Writer(stderr)
	if a.cfg.Manifest.Outputs.OperatorOutput {
		out, errs := a.cfg.Journal.Output("stdout"), a.cfg.Journal.Output("stderr")
		defer out.Close()
		defer errs.Close()
		toOut, toErr = io.MultiWriter(stdout, out), io.MultiWriter(stderr, errs)
	}
	algorithm := a.cfg.Manifest.Algorithm
	return a.cfg.Runner.Run(ctx, runtime.Job{
		Type:    algorithm.Type,
		Program: a.dirs.program(),
		Image:   algorithm.Image,
		Python:  algorithm.Python,
		Args:    algorithm.Args,
		Env:     algorithm.Env,
		Limits:  algorithm.Limits,
		Dir:     a.dirs.work(),
		Stdout:  toOut,
		Stderr:  toErr,
	})
}
