package fleet

import (
	"net"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// Sources of entries, as they are kept.
const (
	sourceAgent   = "agent"
	sourceShim    = "shim"
	sourceManager = "manager"
)

// The agent's states, as it tells them.
const (
	stateAwaiting = "AwaitingInputs"
	stateRunning  = "Running"
	stateResult   = "ResultReady"
	stateReleased = "Released"
	stateFailed   = "Failed"
	stateStopped  = "Stopped"
)

const kindState = vm.EventState

// step is what an event does to a run.
type step struct {
	// source is who alone is believed: what only the host can know, an agent can't
	// say.
	source string
	// do changes the run. address is where its host is seen from. What the event
	// says that has not the form it must have is dropped, and odd says so.
	do func(r *computations.Run, e *computations.Entry, address string) (odd string)
}

// steps are all that events do, by kind. A step may come late, or before others:
// none takes a run back. The end is not here; see outcome.
var steps = map[string]step{
	vm.EventAccepted: {sourceManager, func(r *computations.Run, e *computations.Entry, address string) string {
		return accept(r, address, e.Attributes["agent_port"])
	}},
	vm.EventStarting: {sourceShim, func(r *computations.Run, e *computations.Entry, _ string) string {
		r.Simulated = r.Simulated || e.Attributes["simulated"] == "true"
		return why(r, computations.RunStarting, "its VM is being started")
	}},
	vm.EventBooting: {sourceShim, func(r *computations.Run, _ *computations.Entry, _ string) string {
		return why(r, computations.RunStarting, "its VM boots")
	}},
	vm.EventReady: {sourceAgent, func(r *computations.Run, e *computations.Entry, _ string) (odd string) {
		if r.State.Ended() {
			return ""
		}
		r.Simulated = r.Simulated || e.Attributes["simulated"] == "true"
		first := advance(r, computations.RunRunning)
		if first {
			r.Started = e.Committed
			agentState(r, stateAwaiting)
			r.Reason = "the agent takes inputs"
		}
		switch key := e.Attributes["agent_key"]; {
		case r.AgentKey != "": // it never changes; another one is no agent's
		case computations.IsAgentKey(key):
			r.AgentKey = key
		case first && key != "":
			return "agent_key is not sha256: and 64 hexadecimal digits: no key of the agent is shown"
		}
		return ""
	}},
	vm.EventState: {sourceAgent, func(r *computations.Run, e *computations.Entry, _ string) string {
		if r.State.Ended() || !agentState(r, e.Attributes["to"]) {
			return ""
		}
		r.Reason = saysState[r.AgentState]
		if r.AgentState == stateFailed {
			r.Reason = failure(e)
		}
		return ""
	}},
	vm.EventStopping: {sourceShim, func(r *computations.Run, _ *computations.Entry, _ string) string {
		if !r.State.Ended() {
			r.Reason = "its VM is being ended"
		}
		return ""
	}},
}

// stepAttributes are the attributes that steps and outcome look at.
var stepAttributes = []string{"agent_port", "simulated", "agent_key", "from", "to", "reason"}

var saysState = map[string]string{
	stateRunning:  "the algorithm runs",
	stateResult:   "the result waits for its consumers",
	stateReleased: "every consumer has the result",
	stateStopped:  "the agent was told to stop",
}

// away says why nothing is heard of a run, and what can be done.
func away(state computations.RunState, host string) string {
	if state == computations.RunOffered {
		return "offered to " + host + ", which is not connected, and must answer first"
	}
	return "its host, " + host + ", is not connected: it may go on there; if the host never comes back, an operator ends its runs by revoking it"
}

// stands says how a run stands of whose host nothing new was heard.
func stands(r *computations.Run) string {
	switch {
	case r.State == computations.RunStarting:
		return "its VM is being started"
	case r.AgentState == stateFailed:
		return "the computation failed"
	case saysState[r.AgentState] != "":
		return saysState[r.AgentState]
	}
	return "the agent takes inputs"
}

// order of the states of a run; each end is the last.
var order = map[computations.RunState]int{
	computations.RunQueued: 0, computations.RunOffered: 1, computations.RunStarting: 2, computations.RunRunning: 3,
	computations.RunFinished: 4, computations.RunFailed: 4, computations.RunStopped: 4,
}

// advance takes a run to a later state; false if it isn't one.
func advance(r *computations.Run, to computations.RunState) bool {
	if order[to] <= order[r.State] {
		return false
	}
	r.State = to
	return true
}

// accept is what a host's yes does. The address is the one that the host is seen
// from: of its own it names no more than a port.
func accept(r *computations.Run, address, port string) (odd string) {
	if r.State.Ended() {
		return ""
	}
	first := advance(r, computations.RunStarting)
	if first {
		r.Reason = "its host has accepted it"
	}
	switch at := net.JoinHostPort(address, port); {
	case r.AgentAddress != "":
	case computations.IsAgentAddress(at):
		r.AgentAddress = at
	case first:
		return "the agent's port is not a number from 1 to 65535: no address of the agent is shown"
	}
	return ""
}

// why gives the reason for a state, if the run is in it; a host that tells of a
// run's VM has accepted the run.
func why(r *computations.Run, in computations.RunState, reason string) (odd string) {
	advance(r, in)
	if r.State == in {
		r.Reason = reason
	}
	return ""
}

// agentOrder is that of the agent's states. What was reached stays told: an agent
// that is stopped after its result was taken, or after it failed, doesn't say so.
var agentOrder = map[string]int{stateAwaiting: 1, stateRunning: 2, stateResult: 3, stateStopped: 4, stateReleased: 5, stateFailed: 5}

func agentState(r *computations.Run, to string) bool {
	if agentOrder[to] <= agentOrder[r.AgentState] {
		return false
	}
	r.AgentState = to
	return true
}

// failure says what an agent's failure was.
func failure(e *computations.Entry) string {
	switch e.Attributes["reason"] {
	case "algorithm-failed":
		return "the algorithm failed; consumers can take what it left"
	case "agent-failed":
		return "the agent failed"
	case "storage-changed":
		return "the host's scratch disk gave back other bytes than were written to it"
	}
	return "the computation failed"
}

// outcome is how a run ended, by the last that was told of it and by what the agent
// had come to: what the computation came to is before how its VM ended. told is in
// any order.
func outcome(r *computations.Run, told []computations.Entry) (state computations.RunState, reason string) {
	seen := map[string]*computations.Entry{}
	for i := range told {
		e := &told[i]
		switch {
		case e.Source == sourceAgent && e.Kind == vm.EventState:
			seen[e.Attributes["to"]] = e
		case e.Source == sourceAgent && e.Kind == vm.EventRefused,
			e.Source == sourceShim && e.Kind != vm.EventRefused,
			e.Source == sourceManager && e.Kind == vm.EventLost:
			seen[e.Kind] = e
		}
	}
	for _, end := range []struct {
		sign   string
		state  computations.RunState
		reason func(*computations.Entry) string
	}{
		{stateReleased, computations.RunFinished, says("every consumer has the result")},
		{stateFailed, computations.RunFailed, failure},
		{vm.EventRefused, computations.RunFailed, func(e *computations.Entry) string {
			if text := vm.Refusal(e.Attributes["reason"]).Text(); text != "" {
				return "the agent refused to serve: " + text
			}
			return "the agent refused to serve"
		}},
		{"", computations.RunStopped, says("stopped, as it was asked for")},
		{vm.EventLost, computations.RunFailed, says("its VM was lost")},
		{vm.EventSilent, computations.RunFailed, says("its agent did not report in time")},
		{vm.EventExpired, computations.RunStopped, says("it lived as long as it may")},
		{stateStopped, computations.RunStopped, says("stopped on its host")},
		{vm.EventStopping, computations.RunStopped, says("stopped on its host")},
	} {
		if end.sign == "" && !r.StopAsked.IsZero() {
			return end.state, end.reason(nil)
		}
		if e := seen[end.sign]; e != nil {
			return end.state, end.reason(e)
		}
		if end.sign == r.AgentState && agentOrder[r.AgentState] == agentOrder[stateReleased] {
			return end.state, end.reason(&computations.Entry{}) // told before the last
		}
	}
	reason = "its VM ended before the computation had"
	if e := seen[vm.EventExited]; e != nil && e.Message != "" {
		reason += ": " + strings.TrimSuffix(telemetry.Clean(e.Message, maxReason), ".")
	}
	return computations.RunFailed, reason
}

func says(text string) func(*computations.Entry) string {
	return func(*computations.Entry) string { return text }
}
