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

// quitDelay is what QEMU has to end itself before it is killed.
const quitDelay = 5 * time.Second

// stopSteps is how a VM is ended within grace: the guest is asked first, then
// QEMU, if it has a monitor to hear it, then nobody. A guest whose agent has
// never dialled has nothing to put in order.
func stopSteps(grace time.Duration, ready, monitor bool) []step {
	var steps []step
	if ready && grace > 0 {
		steps = append(steps, step{0, askGuest})
		if monitor {
			steps = append(steps, step{grace / 2, pressButton})
		}
	} else {
		grace = 0
	}
	if !monitor {
		return append(steps, step{grace, kill})
	}
	return append(steps, step{grace, quit}, step{grace + quitDelay, kill})
}

// plan is what is left of the steps. The zero plan has none.
type plan struct {
	steps []step
	start time.Time
	timer *time.Timer
	ends  time.Time // when QEMU is made to quit
	again delay
}

func (p *plan) stopping() bool { return p.timer != nil }

// replace takes new steps from now on, unless the old ones end the VM sooner.
func (p *plan) replace(steps []step, now time.Time) {
	ends := now
	for _, s := range steps {
		if s.action == quit || s.action == kill {
			ends = now.Add(s.after)
			break
		}
	}
	if p.stopping() && !ends.Before(p.ends) {
		return
	}
	if p.stopping() {
		p.timer.Stop()
	}
	p.steps, p.start, p.ends, p.again = steps, now, ends, newDelay()
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
// The last one is repeated, less and less often.
func (p *plan) next(now time.Time) action {
	a := p.steps[0].action
	var wait time.Duration
	if len(p.steps) > 1 {
		p.steps = p.steps[1:]
		wait = p.start.Add(p.steps[0].after).Sub(now)
	} else {
		wait = p.again.next
		p.again.longer()
	}
	p.timer.Reset(max(wait, 0))
	return a
}

// delay is how long to wait before something is tried again.
type delay struct{ next time.Duration }

func newDelay() delay { return delay{time.Second} }

func (d *delay) longer() { d.next = min(2*d.next, time.Minute) }

func (d *delay) over() <-chan time.Time { return time.After(d.next) }

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
