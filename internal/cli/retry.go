package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 250 * time.Millisecond
	longPause  = 8 * time.Second
	// maxTries without progress: about 50 s, which is longer than an agent needs
	// to find out that the connection of an earlier upload is dead.
	maxTries = 10
)

// goesOn is the hint of a transfer that was cut.
const goesOn = "run the same command again: it goes on where this one stopped"

// retry paces the attempts of one transfer and gives up where they lead nowhere.
type retry struct {
	sleep func(context.Context, time.Duration) error
	// resume is the hint on how to go on later.
	resume string
	// reached: the agent has answered once. Before, there is one attempt: a
	// wrong address does not become right.
	reached bool
	best    int64
	tries   int
}

// progress says how many bytes the receiver is known to hold.
func (r *retry) progress(n int64) {
	r.reached = true
	if n > r.best {
		r.best, r.tries = n, 0
	}
}

// pause returns how long to wait before the next attempt, or false if there is
// to be none.
func (r *retry) pause() (time.Duration, bool) {
	if !r.reached || r.tries >= maxTries {
		return 0, false
	}
	d := min(firstPause<<r.tries, longPause)
	r.tries++
	return d - time.Duration(rand.Int64N(int64(d/5))), true
}

// next waits before another attempt after err, and reconnects. It returns
// final, what the user is told, if there is to be none.
func (r *retry) next(ctx context.Context, p *peer, show *progress, doing string, err error) (final error) {
	if ctx.Err() != nil {
		return then(ctx.Err(), r.resume)
	}
	if !p.temporary(ctx, err) {
		return p.explain(doing, err)
	}
	d, more := r.pause()
	if !more && !r.reached {
		return p.explain(doing, err)
	}
	if !more {
		return then(p.explain(doing, err), r.resume)
	}
	show.note("%v; trying again in %s", p.explain("interrupted", err), brief(d))
	if err := r.sleep(ctx, d); err != nil {
		return then(err, r.resume)
	}
	if err := p.reconnect(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
