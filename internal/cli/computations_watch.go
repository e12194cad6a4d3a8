package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

// entryView is an entry of a run as the service keeps it.
type entryView struct {
	Type       string            `json:"type"`
	Run        string            `json:"run_id"`
	Position   int64             `json:"position"`
	Source     string            `json:"source"`
	Sequence   int64             `json:"sequence,omitempty"`
	Time       *time.Time        `json:"time"`
	Level      string            `json:"level"`
	Kind       string            `json:"kind,omitempty"`
	Message    string            `json:"message"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Dropped    int64             `json:"dropped,omitempty"`
}

func infoOfEntry(run string, e *computationsv1.Entry) entryView {
	return entryView{
		Type: e.GetType(), Run: run, Position: e.GetPosition(), Source: e.GetSource(), Sequence: e.GetSequence(), Time: moment(e.GetTime()),
		Level: e.GetLevel(), Kind: e.GetKind(), Message: e.GetMessage(), Attributes: e.GetAttributes(), Dropped: e.GetDropped(),
	}
}

func (e *entryView) text() string {
	var b strings.Builder
	if e.Dropped > 0 {
		fmt.Fprintf(&b, "(%d lines before this one were dropped) ", e.Dropped)
	}
	fmt.Fprintf(&b, "%s %s", when(e.Time), e.Source)
	if e.Type == "log" {
		fmt.Fprintf(&b, " %s", e.Level)
	} else {
		fmt.Fprintf(&b, " %s", e.Kind)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Attributes)) {
		switch v := e.Attributes[name]; {
		case v == "":
		case strings.ContainsAny(v, " \"="):
			fmt.Fprintf(&b, " %s=%q", name, v)
		default:
			fmt.Fprintf(&b, " %s=%s", name, v)
		}
	}
	return clean(b.String())
}

func (a *app) computationsWatchCmd() *cobra.Command {
	var (
		workspace string
		after     int64
	)
	cmd := &cobra.Command{
		Use:   "watch RUN|COMPUTATION",
		Short: "Follow what a run tells, until it ends",
		Long: `Follow what a run tells, events and log lines, until it ends; of a computation, its
newest run. A connection that breaks is made again, and nothing is printed twice or
left out. The exit status is 1 if the run failed or was stopped.

With --json each line is an object, whose "type" is "event", "log", or "run" for the
run itself whenever it has changed.

The service tells what hosts tell it. What a participant relies on is shown by the
commands that talk with the VM: cocos-cli events, and receipt verify.`,
		Example: `  cocos-cli computations watch iris
  cocos-cli computations watch 0193… --after 17 --json`,
		Args: exactly("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if after < 0 {
				return usagef("the position of the last entry that you have seen", "--after %d: expected a position", after)
			}
			return a.withRun(cmd, args[0], workspace, func(ctx context.Context, s *service, r runView) error {
				return a.watch(ctx, s, r.ID, after)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.Flags().Int64Var(&after, "after", 0, "begin after this `POSITION`")
	return cmd
}

// watch prints a run's entries until it has ended, over as many connections as it
// takes.
func (a *app) watch(ctx context.Context, s *service, run string, after int64) error {
	const doing = "watching the run"
	w := &watcher{app: a, run: run, after: after, try: retry{sleep: a.sleep}}
	quiet := a.out.progress("watch", -1)
	for {
		err := w.once(ctx, s)
		var own *stopped
		switch {
		case err == nil:
			return w.verdict()
		case errors.As(err, &own):
			return own.err
		}
		resume := fmt.Sprintf("cocos-cli computations watch %s --after %d goes on", run, w.after)
		if ctx.Err() != nil {
			return then(ctx.Err(), resume)
		}
		if !s.temporary(err) {
			return s.explain(doing, err)
		}
		pause, more := w.try.pause()
		if !more {
			if !w.try.reached {
				resume = ""
			}
			return then(s.explain(doing, err), resume)
		}
		quiet.note("%v; trying again in %s", s.explain("interrupted", err), brief(pause))
		if err := a.sleep(ctx, pause); err != nil {
			return then(err, resume)
		}
		// gRPC would first wait out its own pauses.
		again, err := a.reach(s.login)
		if err != nil {
			return err
		}
		defer again.close()
		s = again
	}
}

// watcher is where a watch has come to.
type watcher struct {
	app   *app
	run   string
	after int64
	last  *runView
	try   retry
}

// once watches over one connection. It returns nil when the run has ended and all
// of it was printed.
func (w *watcher) once(ctx context.Context, s *service) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.runs.Watch(ctx, &computationsv1.WatchRequest{RunId: w.run, After: w.after})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if w.last == nil || !w.last.ended() {
				return &stopped{errors.New("watching the run: the service ended the watch, and the run has not ended")}
			}
			return nil
		}
		if err != nil {
			return err
		}
		w.try.reached, w.try.tries = true, 0
		if err := w.show(r); err != nil {
			return &stopped{err}
		}
	}
}

// show prints what is new: each entry once, and what has changed of the run.
func (w *watcher) show(r *computationsv1.WatchResponse) error {
	out := w.app.out
	now := infoOfServiceRun(r.GetRun())
	if now.Simulated {
		w.app.simulated()
	}
	for _, e := range r.GetEntries() {
		info := infoOfEntry(w.run, e)
		if info.Position <= w.after {
			continue
		}
		// The positions of a run have no gaps, but for what is kept no longer.
		if err := out.result(info, "%s\n", info.text()); err != nil {
			return err
		}
		w.after = info.Position
	}
	if w.last != nil && reflect.DeepEqual(*w.last, now) {
		return nil
	}
	w.last = &now
	if out.json {
		return out.object(struct {
			Type string `json:"type"`
			runView
		}{"run", now})
	}
	out.hint("run %s", clean(now.line()))
	return nil
}

// verdict is how the run ended, for the exit status.
func (w *watcher) verdict() error {
	if w.last.State == "finished" {
		return nil
	}
	text := w.last.Reason
	if text == "" {
		text = "no reason was told"
	}
	return advise(fmt.Errorf("the run %s: %s", w.last.State, text), "cocos-cli computations entries %s shows what it told", w.run)
}

func (a *app) computationsEntriesCmd() *cobra.Command {
	var (
		q                   computationsv1.ListEntriesRequest
		workspace, from, to string
		limit               int
	)
	cmd := &cobra.Command{
		Use:   "entries RUN|COMPUTATION",
		Short: "Search what a run told, the newest last",
		Example: `  cocos-cli computations entries iris --level warn --level error
  cocos-cli computations entries iris --type event --source agent --from 2026-11-29T00:00:00Z`,
		Args: exactly("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > maxListed {
				return usagef("leave it out for the last 100", "--limit %d: expected 1 to %d", limit, maxListed)
			}
			var err error
			if q.From, err = stampFlag("--from", from); err != nil {
				return err
			}
			if q.To, err = stampFlag("--to", to); err != nil {
				return err
			}
			return a.withRun(cmd, args[0], workspace, func(ctx context.Context, s *service, r runView) error {
				q.RunId, q.NewestFirst = r.ID, true
				all, err := pages(func(token string) ([]entryView, string, error) {
					q.PageSize, q.PageToken = int32(min(limit, maxPage)), token
					page, err := s.runs.ListEntries(ctx, &q)
					if err != nil {
						return nil, "", s.explain("searching", err)
					}
					return each(page.GetEntries(), func(e *computationsv1.Entry) entryView { return infoOfEntry(r.ID, e) }), page.GetNextPageToken(), nil
				}, limit)
				if err != nil {
					return err
				}
				slices.Reverse(all)
				for _, e := range all {
					if err := a.out.result(e, "%s\n", e.text()); err != nil {
						return err
					}
				}
				if len(all) == 0 {
					a.out.hint("it told nothing of that kind")
				}
				return nil
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.StringSliceVar(&q.Types, "type", nil, "only this `TYPE` (repeatable): event or log")
	f.StringSliceVar(&q.Sources, "source", nil, "only from this `SOURCE` (repeatable): agent, shim, manager, service")
	f.StringSliceVar(&q.Levels, "level", nil, "only of this `LEVEL` (repeatable): debug, info, warn, error")
	f.StringVar(&q.Kind, "kind", "", "only events of this `KIND`, such as agent.state")
	f.StringVar(&q.Text, "text", "", "only those whose message has this `TEXT`")
	f.StringVar(&from, "from", "", "only from this `TIME` (RFC 3339) on")
	f.StringVar(&to, "to", "", "only until this `TIME` (RFC 3339)")
	f.IntVar(&limit, "limit", 100, "the last `N` of them")
	complete(cmd, "type", func() []string { return []string{"event", "log"} })
	complete(cmd, "source", func() []string { return []string{"agent", "shim", "manager", "service"} })
	complete(cmd, "level", func() []string { return []string{"debug", "info", "warn", "error"} })
	return cmd
}
