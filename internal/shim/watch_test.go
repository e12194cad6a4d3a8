package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func (g *guest) log(message string) {
	g.send(&guestv1.SessionRequest{Message: &guestv1.SessionRequest_Log{Log: &eventv1.Log{Level: eventv1.Level_LEVEL_INFO, Message: message}}})
}

// agentLines are the next n lines of the agent in a watch.
func agentLines(t *testing.T, w shimv1.ShimService_WatchClient, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		r, err := w.Recv()
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		if l := r.GetLog(); l.GetSource() == eventv1.Source_SOURCE_AGENT {
			got = append(got, l.GetMessage())
		}
	}
	return got
}

func watch(t *testing.T, s *runningShim, r *shimv1.WatchRequest) shimv1.ShimService_WatchClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	w, err := s.api.Watch(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// lines are the last n of all sources.
func lines(t *testing.T, s *runningShim, n uint32) (all []string) {
	t.Helper()
	w := watch(t, s, &shimv1.WatchRequest{Lines: n})
	for {
		switch r, err := w.Recv(); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		case r.GetLog() != nil:
			all = append(all, r.GetLog().GetMessage())
		}
	}
}

// Whoever looks on sees what Follow saw before and will see, and takes nothing
// from it.
func TestWatchTakesNothing(t *testing.T) {
	dir, _ := newVM(t, "")
	s := startShim(t, dir, nil)
	g, _ := dialGuest(t, dir)
	g.event(1)
	g.acked(1)
	for i := range 5 {
		g.log(fmt.Sprintf("line %d", i))
	}
	f := s.follow()
	for seen := 0; seen < 5; { // they are taken out of Follow's queue
		if f.next().GetLog().GetSource() == eventv1.Source_SOURCE_AGENT {
			seen++
		}
	}
	// The shim says something itself now and then: two looks that agree have the truth.
	for {
		all, last := lines(t, s, 1000), lines(t, s, 3)
		if len(lines(t, s, 1000)) != len(all) {
			continue
		}
		if len(all) < 5 || !slices.Equal(last, all[len(all)-3:]) {
			t.Errorf("the last lines are %q, want those of %q", last, all)
		}
		break
	}
	on := watch(t, s, &shimv1.WatchRequest{Lines: 1000, Follow: true})
	if got, want := agentLines(t, on, 5), []string{"line 0", "line 1", "line 2", "line 3", "line 4"}; !slices.Equal(got, want) {
		t.Errorf("the agent's lines are %q, want %q", got, want)
	}
	for { // a line of the shim's may come before
		r, err := on.Recv()
		if err != nil || r.GetLog().GetSource() == eventv1.Source_SOURCE_AGENT {
			t.Fatalf("after what was there: %v, %v", r, err)
		}
		if r.GetCaughtUp() != nil {
			break
		}
	}
	g.log("one more")
	if got := agentLines(t, on, 1); got[0] != "one more" {
		t.Errorf("following: %q", got)
	}
	for f.next().GetLog().GetMessage() != "one more" { // Follow has it, too
	}

	var kinds []string
	caughtUp := false
	once := watch(t, s, &shimv1.WatchRequest{Events: true})
	for {
		r, err := once.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case caughtUp, r.GetLog() != nil:
			t.Errorf("sent, but not asked for: %v", r)
		case r.GetCaughtUp() != nil:
			caughtUp = true
		default:
			kinds = append(kinds, r.GetEvent().GetKind())
		}
	}
	if !caughtUp {
		t.Error("it did not say that this was all")
	}
	if !slices.Contains(kinds, vm.EventStarting) || !slices.Contains(kinds, vm.EventReady) && !slices.Contains(kinds, vm.EventState) {
		t.Errorf("events that wait: %q", kinds)
	}
	st, err := s.api.Status(t.Context(), &shimv1.StatusRequest{})
	if err != nil || int(st.GetUnacknowledged()) != len(kinds) {
		t.Errorf("%d events wait (%v), %d were shown", st.GetUnacknowledged(), err, len(kinds))
	}
}

// Too many are refused; those who leave make room.
func TestWatchersAreBounded(t *testing.T) {
	dir, _ := newVM(t, "")
	s := startShim(t, dir, nil)
	s.follow().until(vm.EventBooting)
	g, _ := dialGuest(t, dir)
	g.log("here")
	for range maxWatchers {
		agentLines(t, watch(t, s, &shimv1.WatchRequest{Lines: 100, Follow: true}), 1)
	}
	if _, err := watch(t, s, &shimv1.WatchRequest{Follow: true}).Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
}
