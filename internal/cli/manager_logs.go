package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

// maxManagerLines is the most that the Manager gives at once.
const maxManagerLines = 10_000

// lineInfo is what manager logs prints as JSON.
type lineInfo struct {
	Source  string     `json:"source"`
	Time    *time.Time `json:"time,omitempty"`
	Level   string     `json:"level,omitempty"`
	Message string     `json:"message"`
	Missing uint64     `json:"missing,omitempty"`
}

// logSources are the values of --source.
func logSources() []string {
	var out []string
	for n := 1; n < len(controlv1.LogSource_name); n++ {
		out = append(out, logSourceName(controlv1.LogSource(n)))
	}
	return out
}

func logSourceName(s controlv1.LogSource) string { return enumName(s.String(), "LOG_SOURCE_") }

func (a *app) managerLogsCmd() *cobra.Command {
	var (
		sources []string
		lines   int
		follow  bool
	)
	cmd := &cobra.Command{
		Use:   "logs RUN",
		Short: "Print the last log lines of a run",
		Long: `Print the last log lines of a run, oldest first: those of the agent in the VM, of
the shim, which is the VM's own process on the host, and of the Manager. What the
algorithm prints is in none of them. The console of the guest is shown when it is
asked for by name; it belongs to a VM that its host can read.`,
		Example: `  cocos-cli manager logs 0b9c --follow
  cocos-cli manager logs 0b9c --source console --lines 1000`,
		Args:              exactly("RUN"),
		ValidArgsFunction: a.completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			if lines < 0 || lines > maxManagerLines {
				return usagef(seeHelp(cmd), "--lines %d: expected 0 to %d", lines, maxManagerLines)
			}
			q := &controlv1.LogsRequest{Run: args[0], Lines: uint32(lines), Follow: follow}
			for _, s := range sources {
				i := slices.Index(logSources(), s)
				if i < 0 {
					return usagef("use one or more of: "+strings.Join(logSources(), ", "), "--source %q is not known", s)
				}
				q.Sources = append(q.Sources, controlv1.LogSource(i+1))
			}
			h, err := a.host()
			if err != nil {
				return err
			}
			defer h.close()
			const doing = "reading logs"
			stream, err := h.Logs(cmd.Context(), q)
			if err != nil {
				return h.explain(doing, err)
			}
			for {
				l, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return h.explain(doing, err)
				}
				info := infoOfLine(l)
				if err := a.out.result(info, "%s\n", info.text()); err != nil {
					return err
				}
			}
		},
	}
	cmd.Flags().StringSliceVar(&sources, "source", nil, "whose lines, a `SOURCE`, several times if need be: agent, shim, manager, console (default the first three)")
	cmd.Flags().IntVar(&lines, "lines", 100, "how many of the last lines of each source, at most `N`")
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with what comes, until the run is over")
	complete(cmd, "source", logSources)
	return cmd
}

func infoOfLine(l *controlv1.LogsResponse) *lineInfo {
	info := &lineInfo{Source: logSourceName(l.GetSource()), Message: l.GetMessage(), Missing: l.GetMissing()}
	if l.GetTime() != nil {
		t := l.GetTime().AsTime()
		info.Time = &t
	}
	if l.GetLevel() != eventv1.Level_LEVEL_UNSPECIFIED {
		info.Level = enumName(l.GetLevel().String(), "LEVEL_")
	}
	return info
}

func (l *lineInfo) text() string {
	var parts []string
	if l.Missing > 0 {
		parts = append(parts, fmt.Sprintf("(%d lines before this one are missing)", l.Missing))
	}
	if l.Time != nil {
		parts = append(parts, l.Time.Format(time.RFC3339))
	}
	parts = append(parts, fmt.Sprintf("%-7s", l.Source))
	if l.Level != "" {
		parts = append(parts, fmt.Sprintf("%-5s", l.Level))
	}
	return clean(strings.Join(append(parts, l.Message), " "))
}
