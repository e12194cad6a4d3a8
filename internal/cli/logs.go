package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

// logInfo is what logs prints as JSON.
type logInfo struct {
	Run     string    `json:"run_id"`
	Source  string    `json:"source"`
	Time    time.Time `json:"time"`
	Level   string    `json:"level"`
	Message string    `json:"message"`
	Dropped uint64    `json:"dropped,omitempty"`
}

func (a *app) logsCmd() *cobra.Command {
	var (
		role   string
		follow bool
	)
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Print the agent's last log lines",
		Long: `Print the agent's last log lines. What the algorithm prints is part of the
result, never of these.`,
		Example: `  cocos-cli logs --agent 127.0.0.1:7020 --agent-key sha256:… \
    --key alice.pem --manifest manifest.json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, _, err := a.connectAs(cmd, role)
			if err != nil {
				return err
			}
			defer p.close()
			return a.logs(cmd.Context(), p, follow)
		},
	}
	a.agentFlags(cmd)
	a.cachedFlag(cmd)
	a.roleFlag(cmd, &role)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with what comes")
	return cmd
}

func (a *app) logs(ctx context.Context, p *peer, follow bool) error {
	const doing = "reading logs"
	stream, err := p.Logs(ctx, &agentv1.LogsRequest{Follow: follow})
	if err != nil {
		return p.explain(doing, err)
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return p.explain(doing, err)
		}
		info := infoOfLog(r.GetLog())
		if err := a.out.result(info, "%s\n", info.text()); err != nil {
			return err
		}
	}
}

func infoOfLog(l *eventv1.Log) logInfo {
	return logInfo{
		Run: l.GetRunId(), Source: sourceName(l.GetSource()), Time: l.GetTime().AsTime(),
		Level: enumName(l.GetLevel().String(), "LEVEL_"), Message: l.GetMessage(), Dropped: l.GetDropped(),
	}
}

func (l *logInfo) text() string {
	s := fmt.Sprintf("%s %-5s %s", l.Time.Format(time.RFC3339), l.Level, l.Message)
	if l.Dropped > 0 {
		s = fmt.Sprintf("(%d lines before this one were dropped) %s", l.Dropped, s)
	}
	return clean(s)
}
