package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// startShim starts the shim and waits until it listens. If there is no way to
// start it, the VM is lost before it began.
func (r *run) startShim(ctx context.Context) error {
	if r.child == nil {
		c, err := launch(r.m.cfg.Shim, r.dir)
		if err != nil {
			return r.tellLost(err.Error())
		}
		r.child = c
		r.log.Info("shim started", "pid", c.pid)
		r.m.at("shim.started")
	}
	for ctx.Err() == nil {
		gone, how := r.child.ended()
		if f, err := r.facts(); err != nil {
			return err
		} else if f.alive || (gone && f.begun) {
			return nil
		}
		if gone {
			// It may have given way to one that an earlier Manager started.
			if owned, err := r.takeFolder(); err != nil {
				return err
			} else if owned {
				return r.tellLost(fmt.Sprintf("the shim %s before it listened; its last words: %s", how, lastWords(r.dir.ShimLog())))
			}
		}
		r.pause(ctx, startPause)
	}
	return nil
}

// follow passes on what the shim tells until it is gone or drained and released.
func (r *run) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := dialShim(ctx, r.dir.ShimSocket())
	if err != nil {
		return err
	}
	defer c.conn.Close()
	statusCtx, done := context.WithTimeout(ctx, callTimeout)
	state, err := c.status(statusCtx, r.id)
	done()
	if err != nil {
		return err
	}
	r.setState(state)
	var watch sync.WaitGroup
	watch.Go(func() { c.lost(ctx); cancel() })
	defer watch.Wait()
	defer cancel()
	for ctx.Err() == nil {
		s, changed := r.m.hub.wait(ctx)
		if s == nil {
			continue
		}
		drained, err := r.relay(ctx, s, c)
		if drained {
			return r.release(ctx, c)
		}
		if err != nil && ctx.Err() == nil && s.ctx.Err() == nil {
			if alive, _ := shimAlive(r.dir.ShimSocket()); !alive {
				return nil // what is to be done now follows from the facts
			}
			return err
		}
		waitFor(ctx, s.ctx, changed)
	}
	return nil
}

// waitFor returns at once unless s still lasts.
func waitFor(ctx, s context.Context, changed <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-changed:
	case <-s.Done():
		// Wait for the hub to say so, too.
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// relay is one Follow on one stream to the server.
func (r *run) relay(ctx context.Context, s *session, c *shimConn) (drained bool, err error) {
	err = r.pump(ctx, s, func(ctx context.Context) (feed, error) { return c.follow(ctx, r.id) }, r.theirs, r.observe)
	return err == nil, err
}

// pump is the function pump for as long as the stream to the server lasts.
func (r *run) pump(ctx context.Context, s *session, open func(context.Context) (feed, error), t *tracker, pass func(*eventv1.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	return pump(ctx, s, open, t, pass, r.m.at, r.log)
}

// release lets the shim go, now that it has nothing left to tell.
func (r *run) release(ctx context.Context, c *shimConn) error {
	r.m.at("vm.drained")
	callCtx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	_, err := c.api.Release(callCtx, &shimv1.ReleaseRequest{})
	r.m.at("shim.released")
	if alive, aliveErr := shimAlive(r.dir.ShimSocket()); err != nil && alive {
		return errors.Join(fmt.Errorf("releasing the shim: %w", err), aliveErr)
	}
	<-ctx.Done() // its connection ends with it
	return nil
}

// observe learns from what passes by. That the VM has ended is put on disk
// before it is told: afterwards nobody may say that it was lost.
func (r *run) observe(e *eventv1.Event) error {
	switch e.GetKind() {
	case vm.EventBooting:
		r.setState(vm.Booting)
	case vm.EventReady:
		r.setState(vm.Running)
	case vm.EventStopping:
		r.setState(vm.Stopping)
	case vm.EventExited:
		if e.GetSource() != eventv1.Source_SOURCE_SHIM {
			return nil // a guest's claim
		}
		return r.markExited()
	}
	return nil
}

func (r *run) markExited() error {
	r.over.Store(true)
	r.setState(vm.Exited)
	if r.exited() {
		return nil
	}
	if err := writeFile(r.dir.ExitedMark(), ""); err != nil {
		return fmt.Errorf("noting the VM's end: %w", err)
	}
	return syncPath(string(r.dir))
}

func (r *run) exited() bool {
	_, err := os.Lstat(r.dir.ExitedMark())
	return err == nil
}
