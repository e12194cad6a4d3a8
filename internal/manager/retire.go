package manager

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// tell appends one of the Manager's events, durably; a repetition is ignored.
func (r *run) tell(sequence uint64, kind, message string) error {
	told := events.Event{Source: events.Manager, Sequence: sequence, Time: r.m.cfg.Clock.Now(), Kind: kind, Message: message}
	payload, err := events.Encode(told)
	if err != nil {
		return err
	}
	if err := r.own.Put(events.Manager, sequence, payload); err != nil {
		return fmt.Errorf("spooling %s: %w", kind, err)
	}
	if err := r.own.Sync(); err != nil {
		return fmt.Errorf("spooling %s: %w", kind, err)
	}
	r.story.sees(toProto(r.id, told))
	return nil
}

// retire removes the VM: first the ledger says that it can only be removed, so
// that no half-removed folder is ever taken for a VM; then everything goes but
// the Manager's spool; then the run's last event is told from there.
func (r *run) retire(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	r.retry(ctx, "ending the run", func() error {
		final := r.own.Last(events.Manager) + 1
		if err := r.m.state.end(r.id, ending{digest: r.digest, port: r.port, final: final}); err != nil {
			return err
		}
		r.m.at("run.ended")
		e, _ := r.m.state.ended(r.id)
		if err := r.clear(); err != nil {
			return err
		}
		r.m.at("run.cleared")
		// Whoever hears that nothing is left may ask for the next run at once.
		_ = r.hold.Close() // of a socket that never listened; closed once already on a second try
		r.free.Store(true)
		if err := r.tell(e.final, vm.EventRemoved, "nothing of the VM is left on the host"); err != nil {
			return err
		}
		r.m.at("run.told")
		r.final.Store(e.final)
		return nil
	})
}

// clear removes all but the Manager's spool from the folder.
func (r *run) clear() error {
	entries, err := os.ReadDir(string(r.dir))
	if err != nil {
		return fmt.Errorf("clearing the VM's folder: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(string(r.dir), e.Name())
		if name == r.dir.ManagerSpool() {
			continue
		}
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("clearing the VM's folder: %w", err)
		}
	}
	return syncPath(string(r.dir))
}

func (r *run) delivered() bool {
	final := r.final.Load()
	return final > 0 && r.own.Acked(events.Manager) >= final
}

// deliverOwn sends the Manager's events until the last one is committed.
func (r *run) deliverOwn(ctx context.Context) {
	for ctx.Err() == nil && !r.delivered() {
		s, changed := r.m.hub.wait(ctx)
		if s == nil {
			continue
		}
		err := r.pump(ctx, s, openSpoolFeed(r.id, r.own, r.delivered), r.mine, func(e *eventv1.Event) error {
			r.m.watched.saw(e)
			return nil
		})
		if err != nil && ctx.Err() == nil {
			if s.ctx.Err() == nil {
				r.log.Error("telling the Manager's events failed; trying again", "error", err)
				r.pause(ctx, retryPause)
				continue
			}
			waitFor(ctx, s.ctx, changed)
		}
	}
}
