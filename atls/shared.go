package atls

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

const (
	// sharedFor is how long an appraisal may serve other connections.
	sharedFor = 2 * time.Second
	maxShared = 64
)

// shared appraises once what several connections of this side were given at one
// moment: the very same evidence, that had to bind the very same data. Each of
// them has found its own nonce below the data's root, so it is as fresh for one
// as for the other. Only what was accepted is shared.
type shared struct {
	mu         sync.Mutex
	appraisals map[sharedKey]*appraised
}

type sharedKey struct {
	evidence hash // of its JSON
	data     attest.ReportData
}

type appraised struct {
	done chan struct{}
	// Set when done is closed.
	result attest.Result
	ok     bool
	at     time.Time
}

// verify asks the verifier, or has what it said a moment ago.
func (s *shared) verify(ctx context.Context, v attest.Verifier, json []byte, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	key := sharedKey{sha256.Sum256(json), want.ReportData}
	a, first := s.enter(key)
	if first {
		// Whatever becomes of it, those who wait go on.
		defer close(a.done)
		result, err := v.Verify(ctx, e, want)
		if a.ok = err == nil && result.Accepted; a.ok {
			a.result, a.at = result, time.Now()
			result.Claims = slices.Clone(result.Claims)
		} else {
			s.forget(key, a)
		}
		return result, err
	}
	if a != nil {
		select {
		case <-a.done:
		case <-ctx.Done():
			return attest.Result{}, context.Cause(ctx)
		}
		if a.ok && time.Since(a.at) < sharedFor {
			result := a.result
			result.Claims = slices.Clone(result.Claims)
			return result, nil
		}
	}
	return v.Verify(ctx, e, want)
}

// enter returns an appraisal, and whether the caller has to make it; nil where
// there is no room.
func (s *shared) enter(key sharedKey) (a *appraised, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, a := range s.appraisals {
		select {
		case <-a.done:
			if time.Since(a.at) >= sharedFor {
				delete(s.appraisals, k)
			}
		default:
		}
	}
	if a := s.appraisals[key]; a != nil || len(s.appraisals) >= maxShared {
		return a, false
	}
	if s.appraisals == nil {
		s.appraisals = map[sharedKey]*appraised{}
	}
	a = &appraised{done: make(chan struct{})}
	s.appraisals[key] = a
	return a, true
}

func (s *shared) forget(key sharedKey, a *appraised) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.appraisals[key] == a {
		delete(s.appraisals, key)
	}
}
