package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

// eventInfo is what events prints as JSON.
type eventInfo struct {
	Run        string            `json:"run_id"`
	Source     string            `json:"source"`
	Sequence   uint64            `json:"sequence"`
	Time       time.Time         `json:"time"`
	Kind       string            `json:"kind"`
	Message    string            `json:"message"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

func (a *app) eventsCmd() *cobra.Command {
	var (
		role   string
		follow bool
		after  uint64
	)
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happened, as the agent tells it",
		Long: `Print the agent's events, one per line. With --follow it goes on until the agent
ends or you interrupt it; a connection that breaks is made again, and no event is
printed twice or left out.`,
		Example: `  cocos-cli events --follow --agent 127.0.0.1:7020 --agent-key sha256:… \
    --key alice.pem --manifest manifest.json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, _, err := a.connectAs(cmd, role)
			if err != nil {
				return err
			}
			defer p.close()
			return a.events(cmd.Context(), p, after, follow, func(last uint64) string {
				return fmt.Sprintf("run it again with --after %d", last)
			}, func(e *eventv1.Event) (bool, error) {
				info := infoOfEvent(e)
				return false, a.out.result(info, "%s\n", info.text())
			})
		},
	}
	a.agentFlags(cmd)
	a.cachedFlag(cmd)
	a.roleFlag(cmd, &role)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with what comes")
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after this `SEQUENCE` number")
	return cmd
}

// events hands each event after a sequence to each, once and in order, until
// each says stop, or the agent has no more. resume is the hint on how to go on.
func (a *app) events(ctx context.Context, p *peer, after uint64, follow bool, resume func(last uint64) string, each func(*eventv1.Event) (stop bool, err error)) error {
	const doing = "reading events"
	try := retry{sleep: a.sleep, best: -1}
	quiet := a.out.progress("events", -1)
	for {
		stop, err := eventsOnce(ctx, p, &after, follow, &try, each)
		var s *stopped
		switch {
		case stop, err == nil:
			return nil
		case errors.As(err, &s):
			return s.err
		}
		try.resume = resume(after)
		if err := try.next(ctx, p, quiet, doing, err); err != nil {
			return err
		}
	}
}

// stopped is an error of each, as opposed to one of the stream.
type stopped struct{ err error }

func (s *stopped) Error() string { return s.err.Error() }

func eventsOnce(ctx context.Context, p *peer, after *uint64, follow bool, try *retry, each func(*eventv1.Event) (bool, error)) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.Events(ctx, &agentv1.EventsRequest{After: *after, Follow: follow})
	if err != nil {
		return false, err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		e := r.GetEvent()
		if e.GetSequence() <= *after {
			continue
		}
		stop, err := each(e)
		if err != nil {
			return false, &stopped{err}
		}
		*after = e.GetSequence()
		try.progress(int64(*after))
		if stop {
			return true, nil
		}
	}
}

func infoOfEvent(e *eventv1.Event) eventInfo {
	return eventInfo{
		Run: e.GetRunId(), Source: sourceName(e.GetSource()), Sequence: e.GetSequence(), Time: e.GetTime().AsTime(),
		Kind: e.GetKind(), Message: e.GetMessage(), Attributes: e.GetAttributes(),
	}
}

func (e *eventInfo) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %d %s", e.Time.Format(time.RFC3339), e.Source, e.Sequence, e.Kind)
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

// sourceName is "agent" for SOURCE_AGENT.
func sourceName(s eventv1.Source) string { return enumName(s.String(), "SOURCE_") }

func enumName(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }
