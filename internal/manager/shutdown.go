package manager

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Unfinished says what was left when all VMs were to be ended.
type Unfinished struct {
	// Running are the runs whose VMs may still live.
	Running []string
	// Untold are those whose VMs have ended, and of which the server has not
	// heard everything. It is on disk, for the next Manager to tell.
	Untold []string
	// Err is why VMs could not be stopped; may be nil.
	Err error
}

// Error implements error.
func (u *Unfinished) Error() string {
	var parts []string
	if len(u.Running) > 0 {
		parts = append(parts, fmt.Sprintf("%d VMs have not ended: %s", len(u.Running), strings.Join(u.Running, ", ")))
	}
	if len(u.Untold) > 0 {
		parts = append(parts, fmt.Sprintf("the server has not heard everything of %d runs (it is kept, and told by the next Manager): %s", len(u.Untold), strings.Join(u.Untold, ", ")))
	}
	if u.Err != nil {
		parts = append(parts, u.Err.Error())
	}
	return strings.Join(parts, "; ")
}

// tellGrace is how long a server that is not there is waited for, once every VM
// has ended.
const tellGrace = 5 * time.Second

// refuseRuns makes the Manager take no more runs. One that is being accepted is
// among the runs when it returns.
func (m *Manager) refuseRuns() {
	m.admission.Lock()
	defer m.admission.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draining = true
}

// haltAll ends every VM in order, for a host that is to go down. From its first
// moment on no run is accepted, until another Manager starts. It returns when
// nothing is left, or when ctx has ended, or when all VMs have ended and no
// server is there to be told: then the error is *Unfinished. grace is as in halt.
func (m *Manager) haltAll(ctx context.Context, grace time.Duration) error {
	m.refuseRuns()
	m.mu.Lock()
	runs := make([]*run, 0, len(m.runs))
	for _, r := range m.runs {
		runs = append(runs, r)
	}
	m.mu.Unlock()
	m.cfg.Log.Info("no run is accepted any more; every VM is being ended", "count", len(runs))

	left := &Unfinished{}
	var mu sync.Mutex
	var stops sync.WaitGroup
	for _, r := range runs {
		stops.Go(func() {
			if err := r.halt(ctx, grace); err != nil {
				mu.Lock()
				defer mu.Unlock()
				left.Err = fmt.Errorf("stopping run %s: %w", r.id, err)
			}
		})
	}
	stops.Wait()
	for _, r := range runs {
		select {
		case <-r.ended:
		case <-ctx.Done():
		case <-m.stop.Done():
		}
	}
	m.awaitTold(ctx, runs)
	for _, r := range runs {
		select {
		case <-r.left:
			continue
		default:
		}
		if r.over.Load() {
			left.Untold = append(left.Untold, r.id)
		} else {
			left.Running = append(left.Running, r.id)
		}
	}
	slices.Sort(left.Running)
	slices.Sort(left.Untold)
	if len(left.Running) == 0 && len(left.Untold) == 0 {
		m.cfg.Log.Info("every VM has ended, and the server has heard everything")
		return nil
	}
	m.cfg.Log.Warn("not everything could be ended", "error", left)
	return left
}

// awaitTold waits until the runs are forgotten, and only for a short time while
// there is no server.
func (m *Manager) awaitTold(ctx context.Context, runs []*run) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.stop, cancel)()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		for ctx.Err() == nil {
			s, changed := m.hub.get()
			var lonely <-chan time.Time
			if s == nil {
				lonely = time.After(tellGrace)
			}
			select {
			case <-changed:
			case <-lonely:
				cancel()
			case <-ctx.Done():
			}
		}
	})
	for _, r := range runs {
		select {
		case <-r.left:
		case <-ctx.Done():
			return
		}
	}
}
