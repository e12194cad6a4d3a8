package collateral

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// wait returns when r may be asked: by what this process knows, and by the time
// that other processes left in the cache.
func (f *fetcher) wait(ctx context.Context, r *remote) error {
	now := f.Now()
	next := r.next
	if r.stamp != "" {
		if info, err := os.Stat(filepath.Join(f.Dir, r.stamp)); err == nil {
			// One from the future is of a clock that was wrong.
			if t := info.ModTime(); t.After(next) && t.Before(now.Add(maxWait)) {
				next = t
			}
		}
	}
	if d := next.Sub(now); d > 0 {
		return f.Sleep(ctx, d)
	}
	return nil
}

// leaveStamp tells other processes when r may be asked again. That it can't be
// written shows when the answer is kept.
func (f *fetcher) leaveStamp(r *remote) {
	if r.stamp == "" || os.MkdirAll(f.Dir, 0o700) != nil {
		return
	}
	name := filepath.Join(f.Dir, r.stamp)
	if file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		_ = file.Close()
		_ = os.Chtimes(name, r.next, r.next)
	}
}

// retryAfter reads the header of that name, in seconds or as a date. One that
// is not there or makes no sense counts as AMD's interval.
func (f *fetcher) retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return max(time.Second, time.Duration(s)*time.Second)
	}
	if t, err := http.ParseTime(text); err == nil {
		return max(time.Second, t.Sub(f.Now()))
	}
	return amdInterval
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
