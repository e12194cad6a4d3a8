package agent

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

// ending is how a run ended.
type ending struct {
	started, finished time.Time
	outcome           runtime.Outcome
	exitStatus        *int   // nil: it did not exit by itself
	reason            Reason // NoReason: it succeeded
	// why it failed, for people; it may name what the algorithm left, and brief
	// does not.
	why, brief string
}

func (e *ending) succeeded() bool { return e.reason == NoReason }

func (e *ending) trigger() trigger {
	if e.succeeded() {
		return runSucceeded
	}
	return runFailed
}

func (e *ending) fails(reason Reason, why, brief string) {
	e.reason, e.why, e.brief = reason, why, brief
}

// judge says what a run means to the host (reason) and to consumers.
func (e *ending) judge(o runtime.Outcome, err error) {
	e.outcome = o
	switch {
	case o.PackagesFailed:
		e.outcome.Signal = "" // pip's
	case err == nil && o.Signal == "":
		e.exitStatus = &o.ExitCode
	}
	ended := func(format string, args ...any) {
		why := fmt.Sprintf(format, args...)
		e.fails(AlgorithmFailed, why, why)
	}
	switch {
	case errors.Is(err, runtime.ErrResults):
		e.fails(AlgorithmFailed, err.Error(), runtime.ErrResults.Error())
	case errors.Is(err, runtime.ErrImage):
		e.fails(AlgorithmFailed, err.Error(), runtime.ErrImage.Error())
	case err != nil:
		const brief = "the algorithm could not be run"
		e.fails(AgentFailed, fmt.Sprintf("%s: %v", brief, err), brief)
	case o.LimitExceeded != "":
		ended("the algorithm %s", overrun(o))
	case o.PackagesFailed:
		const brief = "the packages of /algorithm/python could not be installed, and the algorithm was not started"
		e.fails(AlgorithmFailed, fmt.Sprintf("%s: pip ended with %s, and stderr.txt has its words", brief, endedWith(o)), brief)
	case o.Signal != "":
		ended("the algorithm was ended by the signal %s", o.Signal)
	case o.ExitCode != 0:
		ended("the algorithm exited with status %d", o.ExitCode)
	}
}

// endedWith says how a process ended.
func endedWith(o runtime.Outcome) string {
	if o.Signal != "" {
		return "the signal " + o.Signal
	}
	return fmt.Sprintf("status %d", o.ExitCode)
}

// overrun says what the algorithm did against a limit.
func overrun(o runtime.Outcome) string {
	switch l := o.LimitExceeded; l {
	case runtime.LimitProcesses:
		return fmt.Sprintf("failed after it had started as many processes as the limit /algorithm/limits/%s of the manifest or the agent's default for it allows, and %d more were refused", l, o.ProcessesRefused)
	case runtime.LimitFiles:
		return fmt.Sprintf("failed after it had left %d files, folders and links in results/, more than which there can't be", runtime.MaxFiles)
	case runtime.LimitScratch:
		return "failed after it had filled /tmp and /dev/shm, which take a quarter of the VM's memory and " + fmt.Sprint(runtime.MaxFiles) + " files together, its packages included"
	default:
		return fmt.Sprintf("reached the limit /algorithm/limits/%s of the manifest or the agent's default for it, and was ended", l)
	}
}

// runFile is run.json, by which programs learn how a run ended.
type runFile struct {
	Version int `json:"version"`
	// Nonce makes an archive's digest one that nobody can guess who has not got
	// the archive.
	Nonce      manifest.Nonce `json:"nonce"`
	Outcome    string         `json:"outcome"`
	Reason     Reason         `json:"reason,omitempty"`
	ExitStatus *int           `json:"exit_status,omitempty"`
	Signal     string         `json:"signal,omitempty"`
	Limit      string         `json:"limit,omitempty"`
	Usage      *usage         `json:"usage,omitempty"`
	Landlock   int            `json:"landlock_abi"`
}

// usage is what the algorithm used of the machine.
type usage struct {
	WallMS           int64 `json:"wall_ms"`
	CPUMS            int64 `json:"cpu_ms"`
	MaxRSSBytes      int64 `json:"max_rss_bytes"`
	OutputBytes      int64 `json:"output_bytes"`
	ProcessesRefused int64 `json:"processes_refused"`
}

// file is run.json for consumers that may, or may not, learn what was used.
func (e *ending) file(used bool) ([]byte, error) {
	o := e.outcome
	f := runFile{
		Version: 1, Outcome: "succeeded", Reason: e.reason, ExitStatus: e.exitStatus,
		Signal: o.Signal, Limit: o.LimitExceeded, Landlock: o.Landlock,
	}
	if !e.succeeded() {
		f.Outcome = "failed"
	}
	_, _ = rand.Read(f.Nonce[:]) // never fails
	if used {
		f.Usage = &usage{
			WallMS: o.Ended.Sub(o.Started).Milliseconds(), CPUMS: o.CPU.Milliseconds(), MaxRSSBytes: o.MaxRSS,
			OutputBytes: o.OutputBytes, ProcessesRefused: o.ProcessesRefused,
		}
	}
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}
