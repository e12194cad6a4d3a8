package shim

import (
	"slices"
	"testing"
	"time"
)

func TestStopSteps(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		grace          time.Duration
		ready, monitor bool
		want           []step
	}{
		"a guest that can be asked":     {60 * s, true, true, []step{{0, askGuest}, {30 * s, pressButton}, {60 * s, quit}, {65 * s, kill}}},
		"one that never dialled":        {60 * s, false, true, []step{{0, quit}, {5 * s, kill}}},
		"no time":                       {0, true, true, []step{{0, quit}, {5 * s, kill}}},
		"no monitor":                    {60 * s, true, false, []step{{0, askGuest}, {60 * s, kill}}},
		"no monitor, and never dialled": {60 * s, false, false, []step{{0, kill}}},
		"no monitor, no time":           {0, true, false, []step{{0, kill}}},
	} {
		if got := stopSteps(c.grace, c.ready, c.monitor); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPlan(t *testing.T) {
	now := time.Now()
	var p plan
	if p.stopping() || p.due() != nil {
		t.Error("a plan without steps has one due")
	}
	p.replace(stopSteps(time.Minute, true, true), now)
	p.replace(stopSteps(time.Hour, true, true), now)
	if p.ends != now.Add(time.Minute) {
		t.Error("a later request has made the end later")
	}
	p.replace(stopSteps(time.Minute, true, false), now)
	if p.steps[len(p.steps)-2].action != quit {
		t.Error("a plan that ends no sooner was taken")
	}
	p.replace(stopSteps(time.Second, true, true), now)
	var got []action
	for range 5 {
		got = append(got, p.next(now))
	}
	if want := []action{askGuest, pressButton, quit, kill, kill}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	p.replace(stopSteps(0, true, false), now.Add(-time.Second))
	if a := p.next(now); a != kill {
		t.Errorf("the sooner plan begins with %q", a)
	}
}

// What does not help is tried less and less often.
func TestDelay(t *testing.T) {
	d := newDelay()
	var got []time.Duration
	for range 8 {
		got = append(got, d.next/time.Second)
		d.longer()
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}; !slices.Equal(got, want) {
		t.Errorf("%d", got)
	}
}
