package main

import (
	"context"
	"log/slog"

	"github.com/ultravioletrs/cocos/internal/hostcheck"
	"github.com/ultravioletrs/cocos/internal/manager"
)

// lookAround finds out, beside the start, what this host can do for VMs; it logs
// what fails. ask waits for the findings and is for the server; done waits until
// nothing of this runs any more.
func lookAround(ctx context.Context, s settings, log *slog.Logger) (ask func(context.Context) []manager.Finding, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan struct{})
	var found []manager.Finding
	go func() {
		defer close(ready)
		for _, f := range hostcheck.Able(ctx, checkConfig(ctx, s, nil)) {
			if ctx.Err() != nil {
				return
			}
			if f.Verdict == hostcheck.Fail {
				log.Error("this host can't run VMs as it is", "row", f.Name, "found", f.Found, "needed", f.Needed, "mend", f.Mend)
			}
			found = append(found, manager.Finding{Name: f.Name, Verdict: string(f.Verdict), Found: f.Found, Needed: f.Needed, Mend: f.Mend})
		}
	}()
	ask = func(ctx context.Context) []manager.Finding {
		select {
		case <-ready:
			return found
		case <-ctx.Done():
			return nil
		}
	}
	return ask, func() { cancel(); <-ready }
}
