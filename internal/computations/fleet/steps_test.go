package fleet

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// testKey has the form of an agent's key.
var testKey = "sha256:" + strings.Repeat("0a", 32)

// ev is an event as a run's timeline writes it: "source kind name=value ...".
func ev(text string) computations.Entry {
	words := strings.Fields(text)
	e := computations.Entry{Type: computations.EntryEvent, Source: words[0], Kind: words[1], Attributes: map[string]string{}, Committed: time.Unix(1, 0)}
	for _, w := range words[2:] {
		name, value, _ := strings.Cut(w, "=")
		e.Attributes[name] = value
	}
	return e
}

func evs(texts ...string) (all []computations.Entry) {
	for _, t := range texts {
		all = append(all, ev(t))
	}
	return all
}

// TestOutcome is how runs end, by what was told of them, in whatever order.
func TestOutcome(t *testing.T) {
	const (
		exited   = "shim vm.exited exit_status=0"
		removed  = "manager vm.removed"
		running  = "agent agent.state to=Running"
		result   = "agent agent.state to=ResultReady"
		released = "agent agent.state to=Released"
		stopped  = "agent agent.state to=Stopped"
		failed   = "agent agent.state to=Failed reason=algorithm-failed"
		stopping = "shim vm.stopping"
		expired  = "shim vm.expired"
		silent   = "shim vm.silent"
		lost     = "manager vm.lost"
	)
	for name, c := range map[string]struct {
		told   []string
		asked  bool // somebody asked for its end
		state  computations.RunState
		reason string
	}{
		"the result taken":         {[]string{running, result, released, exited, removed}, false, computations.RunFinished, "every consumer has the result"},
		"taken, and then stopped":  {[]string{running, result, released, stopping, stopped, exited, removed}, true, computations.RunFinished, "every consumer has the result"},
		"taken, and then lost":     {[]string{released, lost, removed}, false, computations.RunFinished, "every consumer has the result"},
		"the algorithm failed":     {[]string{running, failed, stopping, stopped, exited, removed}, true, computations.RunFailed, "the algorithm failed; consumers can take what it left"},
		"the agent failed":         {[]string{"agent agent.state to=Failed reason=agent-failed", exited, removed}, false, computations.RunFailed, "the agent failed"},
		"failed for no reason":     {[]string{"agent agent.state to=Failed reason=x", exited, removed}, false, computations.RunFailed, "the computation failed"},
		"refused":                  {[]string{"agent agent.refused reason=manifest", exited, removed}, false, computations.RunFailed, "the agent refused to serve: the VM was launched for another manifest"},
		"refused for no reason":    {[]string{"agent agent.refused", exited, removed}, false, computations.RunFailed, "the agent refused to serve"},
		"stopped by a user":        {[]string{running, stopping, stopped, exited, removed}, true, computations.RunStopped, "stopped, as it was asked for"},
		"stopped before the boot":  {[]string{removed}, true, computations.RunStopped, "stopped, as it was asked for"},
		"stopped with a result":    {[]string{running, result, stopping, stopped, exited, removed}, true, computations.RunStopped, "stopped, as it was asked for"},
		"stopped on its host":      {[]string{running, stopping, stopped, exited, removed}, false, computations.RunStopped, "stopped on its host"},
		"stopped, and hung":        {[]string{running, stopping, exited, removed}, false, computations.RunStopped, "stopped on its host"},
		"its time was over":        {[]string{running, expired, stopping, stopped, exited, removed}, false, computations.RunStopped, "it lived as long as it may"},
		"a silent agent":           {[]string{silent, stopping, exited, removed}, false, computations.RunFailed, "its agent did not report in time"},
		"lost":                     {[]string{running, lost, removed}, false, computations.RunFailed, "its VM was lost"},
		"lost while it stopped":    {[]string{running, stopping, lost, removed}, true, computations.RunStopped, "stopped, as it was asked for"},
		"ended by itself":          {[]string{running, exited, removed}, false, computations.RunFailed, "its VM ended before the computation had"},
		"nothing was told":         {[]string{removed}, false, computations.RunFailed, "its VM ended before the computation had"},
		"an agent's word for loss": {[]string{"agent vm.lost", running, removed}, false, computations.RunFailed, "its VM ended before the computation had"},
		"a shim's for the result":  {[]string{"shim agent.state to=Released", removed}, false, computations.RunFailed, "its VM ended before the computation had"},
		"a shim's for a refusal":   {[]string{"shim agent.refused", removed}, false, computations.RunFailed, "its VM ended before the computation had"},
	} {
		t.Run(name, func(t *testing.T) {
			told := evs(c.told...)
			for range 20 {
				rand.Shuffle(len(told), func(i, j int) { told[i], told[j] = told[j], told[i] })
				r := computations.Run{State: computations.RunRunning}
				if c.asked {
					r.StopAsked = time.Unix(1, 0)
				}
				if state, reason := outcome(&r, told); state != c.state || reason != c.reason {
					t.Errorf("%s, %q\nwant %s, %q", state, reason, c.state, c.reason)
				}
			}
		})
	}
	r := computations.Run{}
	for state, want := range map[string]computations.RunState{stateReleased: computations.RunFinished, stateFailed: computations.RunFailed} {
		r := computations.Run{State: computations.RunRunning, AgentState: state, StopAsked: time.Unix(1, 0)}
		if got, reason := outcome(&r, evs(stopping, exited, removed)); got != want {
			t.Errorf("with %s told long ago: %s, %q", state, got, reason)
		}
	}
	e := ev(exited)
	e.Message = "QEMU exited with status 1."
	if _, reason := outcome(&r, []computations.Entry{e}); reason != "its VM ended before the computation had: QEMU exited with status 1" {
		t.Errorf("%q", reason)
	}
}

// TestStepsNeverGoBack, in whatever order events come, and come to the same.
func TestStepsNeverGoBack(t *testing.T) {
	told := evs(
		"manager run.accepted agent_port=6100", "shim vm.starting simulated=true", "shim vm.booting", "agent agent.ready agent_key="+testKey,
		"agent agent.state to=Running", "agent agent.state to=ResultReady", "agent agent.state to=Released", "agent agent.state to=Stopped", "shim vm.stopping",
	)
	for range 500 {
		rand.Shuffle(len(told), func(i, j int) { told[i], told[j] = told[j], told[i] })
		r := computations.Run{State: computations.RunOffered}
		for i := range told {
			e := &told[i]
			state, agent := r.State, r.AgentState
			if s, ok := steps[e.Kind]; ok && s.source == e.Source {
				s.do(&r, e, "192.0.2.1")
			}
			if order[r.State] < order[state] || agentOrder[r.AgentState] < agentOrder[agent] {
				t.Fatalf("%s took it from %s, %s to %s, %s", e.Kind, state, agent, r.State, r.AgentState)
			}
		}
		if r.State != computations.RunRunning || r.AgentState != stateReleased || r.AgentAddress != "192.0.2.1:6100" || r.AgentKey != testKey || !r.Simulated || r.Started.IsZero() {
			t.Fatalf("%+v", r)
		}
	}
}

// TestStepsOfAnEndedRun: nothing that comes late changes it.
func TestStepsOfAnEndedRun(t *testing.T) {
	for _, state := range []computations.RunState{computations.RunFinished, computations.RunFailed, computations.RunStopped} {
		for kind, s := range steps {
			before := computations.Run{State: state, Reason: "as it was", AgentState: stateResult, AgentKey: "k", AgentAddress: "a"}
			r := before
			e := ev(s.source + " " + kind + " to=Failed agent_port=1 agent_key=x")
			s.do(&r, &e, "192.0.2.1")
			if r.State != before.State || r.Reason != before.Reason || r.AgentState != before.AgentState || r.AgentKey != before.AgentKey || r.AgentAddress != before.AgentAddress {
				t.Errorf("%s changed a run that was %s: %+v", kind, state, r)
			}
		}
	}
}

// TestStepsAreBelievedOfTheirSourceAlone: what only a host knows, its agent can't
// say, nor the other way round.
func TestStepsAreBelievedOfTheirSourceAlone(t *testing.T) {
	for kind, s := range steps {
		want := sourceManager
		switch {
		case strings.HasPrefix(kind, "agent."):
			want = sourceAgent
		case strings.HasPrefix(kind, "vm."):
			want = sourceShim
		}
		if s.source != want {
			t.Errorf("%s is believed of %s", kind, s.source)
		}
	}
	kinds := slices.Sorted(maps.Keys(steps))
	if want := []string{vm.EventReady, vm.EventState, vm.EventAccepted, vm.EventBooting, vm.EventStarting, vm.EventStopping}; !slices.Equal(kinds, want) {
		t.Errorf("%q", kinds)
	}
}

// TestHostsWordsHaveTheirForm: keys, ports, kinds and attributes that have not are
// dropped, each right in all but one thing, and it is said once.
func TestHostsWordsHaveTheirForm(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	for _, key := range []string{"", "sha256:", hex, "sha256:" + hex[1:], "sha256:" + hex + "0", "sha256:" + strings.ToUpper(hex), "sha512:" + hex,
		"sha256:" + hex + "\n", "sha256:" + hex[2:] + "$(", "sha256:" + hex + " --insecure"} {
		r := computations.Run{State: computations.RunStarting}
		e := computations.Entry{Attributes: map[string]string{"agent_key": key}}
		odd := steps[vm.EventReady].do(&r, &e, "192.0.2.1")
		if r.AgentKey != "" || r.State != computations.RunRunning || (odd == "") != (key == "") {
			t.Errorf("key %q: %+v, %q", key, r, odd)
		}
		if odd := steps[vm.EventReady].do(&r, &e, "192.0.2.1"); odd != "" {
			t.Errorf("key %q was spoken of twice: %q", key, odd)
		}
		e.Attributes["agent_key"] = testKey
		if odd := steps[vm.EventReady].do(&r, &e, "192.0.2.1"); r.AgentKey != testKey || odd != "" {
			t.Errorf("after %q: %+v, %q", key, r, odd)
		}
	}
	for at, good := range map[[2]string]bool{
		{"192.0.2.1", "6100"}: true, {"2001:db8::1", "1"}: true, {"192.0.2.1", "65535"}: true,
		{"192.0.2.1", ""}: false, {"192.0.2.1", "0"}: false, {"192.0.2.1", "65536"}: false, {"192.0.2.1", "-1"}: false, {"192.0.2.1", "61 00"}: false,
		{"192.0.2.1", "6100;x"}: false, {"", "6100"}: false, {"fe80::1%eth0", "6100"}: false, {"-x", "6100"}: false, {"a b", "6100"}: false,
	} {
		r := computations.Run{State: computations.RunOffered}
		e := computations.Entry{Attributes: map[string]string{"agent_port": at[1]}}
		odd := steps[vm.EventAccepted].do(&r, &e, at[0])
		if (r.AgentAddress != "") != good || (odd == "") != good || r.State != computations.RunStarting {
			t.Errorf("%q: %+v, %q", at, r, odd)
		}
	}
	for kind, want := range map[string]string{
		"vm.ready": "vm.ready", "a-b_c.9": "a-b_c.9", "": "unknown", "Vm.ready": "unknown", "vm ready": "unknown", "vm.\x1b[31m": "unknown",
		strings.Repeat("a", maxWord): strings.Repeat("a", maxWord), strings.Repeat("a", maxWord+1): "unknown",
	} {
		if got := kindOf(kind); got != want {
			t.Errorf("kind %q is kept as %q", kind, got)
		}
	}
	many := map[string]string{"Bad Name": "x", "": "x", strings.Repeat("a", maxWord+1): "x", "good": "a\x1b[31mb\u202ec\n"}
	if got := attributes(many); len(got) != 1 || got["good"] != "abc " {
		t.Errorf("%q", got)
	}
	for i := range 100 {
		many["a"+strings.Repeat("b", i%60)] = strings.Repeat("x", 2*maxText)
	}
	total := 0
	for name, value := range attributes(many) {
		if total += len(value); len(value) > maxText {
			t.Errorf("%s has %d bytes", name, len(value))
		}
	}
	if n := len(attributes(many)); n > maxAttributes || total > maxAttributeText {
		t.Errorf("%d attributes of %d bytes", n, total)
	}
	long := computations.Entry{Source: sourceShim, Kind: vm.EventExited, Message: strings.Repeat("x", maxText)}
	if _, reason := outcome(&computations.Run{}, []computations.Entry{long}); len(reason) > 2*maxReason {
		t.Errorf("a reason of %d bytes", len(reason))
	}
	refusal := &managerv1.Refusal{}
	for range 20 {
		refusal.Faults = append(refusal.Faults, &managerv1.Fault{Field: strings.Repeat("f", 500), Message: strings.Repeat("m", 5000) + "\x07"})
	}
	it, err := runReplyItem(&managerv1.RunReply{RunId: string(computations.NewID()), Refusal: refusal})
	if err != nil {
		t.Fatal(err)
	}
	if text := it.reply.refused.text; len(text) > maxReason || strings.Contains(text, "\x07") || it.size != itemSize+len(text) {
		t.Errorf("a refusal of %d bytes, counted as %d", len(text), it.size)
	}
}

// TestStatusIsKeptSeldom, whatever a Manager sends, and at once where it says
// something new.
func TestStatusIsKeptSeldom(t *testing.T) {
	s, now, kept := &stream{}, time.Unix(1000, 0), 0
	for i := range 10000 { // in 100 seconds, alternating at each turn of the first half
		m := &managerv1.HostStatus{Running: 1, Capacity: 4, Load: float64(i)}
		if i < 5000 {
			m.Running = uint32(i % 2)
		}
		if s.statusCounts(m, now) {
			kept++
		}
		now = now.Add(10 * time.Millisecond)
	}
	if kept < 15 || kept > 115 {
		t.Errorf("%d are kept", kept)
	}
	now = now.Add(statusChanged)
	if !s.statusCounts(&managerv1.HostStatus{Running: 1, Capacity: 4, Closed: true}, now) {
		t.Error("that it takes no runs was not kept")
	}
}
