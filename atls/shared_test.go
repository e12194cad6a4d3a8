package atls

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// counting says what it is told to, and how often it was asked.
type counting struct {
	mu    sync.Mutex
	asked int
	says  func(ctx context.Context, n int) (attest.Result, error)
}

func (c *counting) Verify(ctx context.Context, _ attest.Evidence, _ attest.Expected) (attest.Result, error) {
	c.mu.Lock()
	c.asked++
	n := c.asked
	c.mu.Unlock()
	return c.says(ctx, n)
}

func accepts(context.Context, int) (attest.Result, error) {
	return attest.Result{Accepted: true, Claims: make([]attest.Claim, 1, 4)}, nil
}

// Only the same evidence for the same data is appraised once, for a moment.
func TestSharedAppraisals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		v := &counting{says: accepts}
		ask := func(json string, data byte) attest.Result {
			t.Helper()
			r, err := s.verify(t.Context(), v, []byte(json), attest.Evidence{}, attest.Expected{ReportData: attest.ReportData{data}})
			if err != nil || !r.Accepted {
				t.Fatalf("%+v, %v", r, err)
			}
			return r
		}
		for _, step := range []struct {
			json  string
			data  byte
			pause time.Duration // before
			asked int           // after
		}{
			{"a", 1, 0, 1},
			{"a", 1, sharedFor - 1, 1},
			{"b", 1, 0, 2},
			{"a", 2, 0, 3},
			{"a", 1, 1, 4}, // too long ago
		} {
			time.Sleep(step.pause)
			ask(step.json, step.data)
			if v.asked != step.asked {
				t.Errorf("%+v: asked %d times", step, v.asked)
			}
		}
		// What one makes of a result is not the other's.
		one, two := ask("a", 1), ask("a", 1)
		one.Add(true, "one", "", "")
		two.Add(true, "two", "", "")
		one.Claims[0].Name = "changed"
		if two.Claims[0].Name != "" || two.Claims[1].Name != "two" {
			t.Errorf("%+v", two.Claims)
		}
		// The number of them is bounded; who finds no room asks.
		for i := range byte(maxShared) {
			ask("c", i)
		}
		before := v.asked
		ask("d", 1)
		ask("d", 1)
		if len(s.appraisals) > maxShared || v.asked != before+2 {
			t.Errorf("%d are kept; asked %d times", len(s.appraisals), v.asked-before)
		}
		time.Sleep(sharedFor)
		ask("d", 1)
		if len(s.appraisals) != 1 {
			t.Errorf("%d are kept", len(s.appraisals))
		}
	})
}

// A refusal, a failure and a silent verifier are the asker's own: nobody else
// gets them for an answer, those who wait meanwhile neither.
func TestOnlyAcceptanceIsShared(t *testing.T) {
	errLeft := errors.New("the connection broke")
	for name, first := range map[string]func(context.Context) (attest.Result, error){
		"refused": func(context.Context) (attest.Result, error) { return attest.Result{}, &attest.Refusal{} },
		"failed": func(context.Context) (attest.Result, error) {
			return attest.Result{Accepted: true}, errors.New("no collateral")
		},
		"silent": func(context.Context) (attest.Result, error) { return attest.Result{}, nil },
		"left off": func(ctx context.Context) (attest.Result, error) {
			<-ctx.Done()
			return attest.Result{}, context.Cause(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s shared
				let := make(chan struct{})
				v := &counting{says: func(ctx context.Context, n int) (attest.Result, error) {
					if n > 1 {
						return accepts(ctx, n)
					}
					<-let
					return first(ctx)
				}}
				ctx, leave := context.WithCancelCause(t.Context())
				firstDone, secondDone := make(chan bool, 1), make(chan bool, 1)
				go func() {
					r, err := s.verify(ctx, v, nil, attest.Evidence{}, attest.Expected{})
					firstDone <- err == nil && r.Accepted
				}()
				synctest.Wait()
				go func() {
					r, err := s.verify(t.Context(), v, nil, attest.Evidence{}, attest.Expected{})
					secondDone <- err == nil && r.Accepted
				}()
				// One that waits for it can leave.
				gone, stop := context.WithCancel(t.Context())
				stop()
				if _, err := s.verify(gone, v, nil, attest.Evidence{}, attest.Expected{}); !errors.Is(err, context.Canceled) {
					t.Errorf("who left got %v", err)
				}
				synctest.Wait()
				leave(errLeft)
				close(let)
				if <-firstDone {
					t.Error("the first was accepted")
				}
				if !<-secondDone || v.asked != 2 {
					t.Errorf("the second was not accepted; asked %d times", v.asked)
				}
			})
		})
	}
}
