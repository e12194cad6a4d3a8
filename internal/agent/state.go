package agent

import (
	"fmt"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// State of a computation.
type State string

// The states, in the order in which they come.
const (
	AwaitingInputs State = "AwaitingInputs"
	Running        State = "Running"
	ResultReady    State = "ResultReady"
	Released       State = "Released" // every consumer has the result
	Failed         State = "Failed"
	Stopped        State = "Stopped"
)

// trigger is what can happen to a computation.
type trigger string

const (
	inputsComplete trigger = "all inputs are there"
	runSucceeded   trigger = "the algorithm succeeded"
	runFailed      trigger = "the run failed"
	resultTaken    trigger = "every consumer has the result"
	stopAsked      trigger = "the agent is to stop"
)

// transitions is every change of state that there is.
var transitions = map[State]map[trigger]State{
	AwaitingInputs: {inputsComplete: Running, runFailed: Failed, stopAsked: Stopped},
	Running:        {runSucceeded: ResultReady, runFailed: Failed, stopAsked: Stopped},
	ResultReady:    {resultTaken: Released, runFailed: Failed, stopAsked: Stopped},
	Released:       {stopAsked: Stopped},
	Failed:         {stopAsked: Stopped},
	Stopped:        {},
}

func next(s State, t trigger) (State, error) {
	to, ok := transitions[s][t]
	if !ok {
		return s, fmt.Errorf("in state %s it can't be that %s", s, t)
	}
	return to, nil
}

// Reason of a failure. The host reads it, so that it says no more than who
// failed; the rest is in the archive that consumers can take.
type Reason string

// The reasons.
const (
	NoReason Reason = ""
	// AlgorithmFailed: it exited with a failure, broke a limit or left what
	// can't be packed.
	AlgorithmFailed Reason = "algorithm-failed"
	// AgentFailed: it was not the algorithm's doing.
	AgentFailed Reason = "agent-failed"
	// StorageChanged: the host's scratch disk gave back other bytes than were
	// written to it.
	StorageChanged Reason = "storage-changed"
)

// fire changes the state and says so in an event. a.mu is held.
func (a *Agent) fire(t trigger, reason Reason) error { return a.fireLimit(t, reason, "") }

// fireLimit also tells participants, and not the host, the limit that was
// exceeded.
func (a *Agent) fireLimit(t trigger, reason Reason, limit string) error {
	to, err := next(a.state, t)
	if err != nil {
		return err
	}
	from := a.state
	a.state, a.reason, a.limit = to, reason, limit
	attributes := map[string]string{"from": string(from), "to": string(to)}
	if reason != NoReason {
		attributes["reason"] = string(reason)
	}
	var private map[string]string
	if limit != "" {
		private = map[string]string{"limit": limit}
	}
	a.cfg.Journal.EmitPrivate(vm.EventState, fmt.Sprintf("%s: %s", to, t), attributes, private)
	return nil
}
