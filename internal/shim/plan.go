package shim

import (
	"encoding/json"
	"time"
)

// action is one step on the way to the VM's end.
type action string

const (
	askGuest    action = "ask the agent"
	pressButton action = "press the power button"
	quit        action = "quit QEMU"
	kill        action = "kill QEMU"
)

// step is an action and when it is due, counted from the request to stop.
type step struct {
	after time.Duration
	action
}

// stopSteps is how a VM is ended within grace: the guest is asked first, then
// QEMU, then nobody. A guest whose agent has never dialled has nothing to put
// in order.
func stopSteps(grace time.Duration, ready bool) []step {
	if !ready || grace <= 0 {
		return []step{{0, quit}, {quitDelay, kill}}
	}
	return []step{{0, askGuest}, {grace / 2, pressButton}, {grace, quit}, {grace + quitDelay, kill}}
}

// plan is what is left of the steps. The zero plan has none.
type plan struct {
	steps []step
	start time.Time
	timer *time.Timer
	ends  time.Time // when QEMU is made to quit
}

func (p *plan) stopping() bool { return p.timer != nil }

// replace takes new steps from now on, unless the old ones end the VM sooner.
func (p *plan) replace(steps []step, now time.Time) {
	ends := now.Add(steps[len(steps)-2].after)
	if p.stopping() && !ends.Before(p.ends) {
		return
	}
	p.steps, p.start, p.ends = steps, now, ends
	p.timer = time.NewTimer(steps[0].after)
}

// due fires when the next step is to be taken.
func (p *plan) due() <-chan time.Time {
	if p.timer == nil {
		return nil
	}
	return p.timer.C
}

// next returns the step that is due and sets the timer for the one after it.
// The last one is repeated.
func (p *plan) next(now time.Time) action {
	a := p.steps[0].action
	wait := time.Second
	if len(p.steps) > 1 {
		p.steps = p.steps[1:]
		wait = p.start.Add(p.steps[0].after).Sub(now)
	}
	p.timer.Reset(max(wait, 0))
	return a
}

// shutdownReason reads the data of QEMU's SHUTDOWN event.
func shutdownReason(data []byte) string {
	var d struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(data, &d) != nil {
		return ""
	}
	return d.Reason
}
