package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// startShim starts the shim and waits until it listens. If there is no way to
// start it, the VM is lost before it began.
func (r *run) startShim(ctx context.Context) error {
	if r.child.Load() == nil {
		if taken, err := r.portTaken(); err != nil || taken {
			return err
		}
		c, err := launch(r.m.cfg.Shim, r.dir)
		if err != nil {
			return r.tellLost(err.Error())
		}
		r.child.Store(c)
		r.log.Info("shim started", "pid", c.pid)
		r.m.at("shim.started")
	}
	for ctx.Err() == nil {
		gone, how := r.child.Load().ended()
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
	c, state, err := r.reach(ctx)
	if err != nil {
		if alive, aliveErr := shimAlive(r.dir); !alive && aliveErr == nil {
			return nil // it went meanwhile
		}
		return err
	}
	defer c.conn.Close()
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
			if alive, _ := shimAlive(r.dir); !alive {
				return nil // what is to be done now follows from the facts
			}
			return err
		}
		waitFor(ctx, s.ctx, changed)
	}
	return nil
}

// portTaken tells, before the VM's start, whether another program listens on its
// port; then the VM is lost. Our own hold does not listen, so it is no obstacle.
func (r *run) portTaken() (bool, error) {
	probe, err := holdPort(r.forward, false)
	if err == nil {
		return false, probe.Close()
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return false, nil // QEMU will say what it is
	}
	// It is QEMU's where a shim is there that has not listened yet.
	if owned, err := r.takeFolder(); err != nil || !owned {
		return false, err
	}
	return true, r.tellLost(fmt.Sprintf("another program listens on %s, which was held for the agent: end it, or leave the ports of MANAGER_QEMU_HOST_FWD_RANGE and MANAGER_QEMU_HOST_FWD_AGENT to the Manager", r.forward))
}

// reach connects to the shim and hears that it is the run's, in bounded time.
func (r *run) reach(ctx context.Context) (*shimConn, vm.State, error) {
	ctx, cancel := context.WithTimeout(ctx, r.m.cfg.call)
	defer cancel()
	c, err := dialShim(ctx, r.dir)
	if err != nil {
		return nil, "", err
	}
	state, err := c.status(ctx, r.id)
	if err != nil {
		return nil, "", errors.Join(err, c.conn.Close())
	}
	if p, err := provenProcess(r.dir); err == nil {
		r.process.Store(p)
	}
	return c, state, nil
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
	return pump(ctx, heard{s, r.story}, open, t, pass, r.m.at, r.log)
}

// release lets the shim go, now that it has nothing left to tell.
func (r *run) release(ctx context.Context, c *shimConn) error {
	r.m.at("vm.drained")
	callCtx, done := context.WithTimeout(ctx, r.m.cfg.call)
	defer done()
	_, err := c.api.Release(callCtx, &shimv1.ReleaseRequest{})
	r.m.at("shim.released")
	if alive, aliveErr := shimAlive(r.dir); err != nil && alive {
		return errors.Join(fmt.Errorf("releasing the shim: %w", err), aliveErr)
	}
	late := time.NewTimer(r.m.cfg.call)
	defer late.Stop()
	select {
	case <-ctx.Done(): // its connection ends with it
		return nil
	case <-late.C:
		return r.insist("it does not end although it was released")
	}
}

// observe learns from what passes by. That the VM has ended is put on disk
// before it is told: afterwards nobody may say that it was lost.
func (r *run) observe(e *eventv1.Event) error {
	r.m.watched.saw(e)
	r.story.sees(e)
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
