package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	"github.com/ultravioletrs/cocos/internal/qemu"
)

// stoppedInfo is what manager stop prints as JSON.
type stoppedInfo struct {
	Runs []stoppedRun `json:"runs"`
}

type stoppedRun struct {
	Run     string `json:"run_id"`
	Gone    bool   `json:"gone"`
	Problem string `json:"problem,omitempty"`
}

// maxGrace is the longest that a guest can be given.
const maxGrace = time.Hour

func (a *app) managerStopCmd() *cobra.Command {
	var (
		all, drain, wait, yes bool
		grace                 time.Duration
	)
	cmd := &cobra.Command{
		Use:   "stop RUN... | --all",
		Short: "Stop VMs: each guest is asked first, then its VM is ended",
		Long: `Stop VMs: each guest is asked first, then its VM is ended. What a computation has
not finished is lost. On a terminal it asks before, unless --yes is given.

With --all --drain the Manager also takes no more runs until it is started again,
as before the host goes down.`,
		Example: `  cocos-cli manager stop 0b9c 7f0a --grace 10s
  cocos-cli manager stop --all --drain --wait --yes`,
		ValidArgsFunction: a.completeRuns,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usagef("name the runs, or give --all", "--all and RUN exclude each other")
			case !all && len(args) == 0:
				return usagef("name a run, or give --all; cocos-cli manager list shows them", "RUN is missing")
			case drain && !all:
				return usagef("it ends every VM: give --all, too", "--drain is of use with --all only")
			case cmd.Flags().Changed("grace") && (grace < time.Second || grace > maxGrace):
				return usagef("leave it out for the usual time", "--grace %s: expected 1s to %s", grace, maxGrace)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &controlv1.StopRequest{Runs: args, All: all, Drain: drain, Wait: wait}
			if cmd.Flags().Changed("grace") {
				n := uint32((grace + time.Second - 1) / time.Second)
				q.GraceSeconds = &n
			}
			h, err := a.host()
			if err != nil {
				return err
			}
			defer h.close()
			if !yes {
				if err := a.askToStop(cmd.Context(), h, q); err != nil {
					return err
				}
			}
			ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
			if !wait {
				ctx, cancel = context.WithTimeout(ctx, controlTimeout)
			}
			defer cancel()
			s, err := h.Stop(ctx, q)
			if err != nil {
				return h.explain("stopping", err)
			}
			return a.stopped(s, wait)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "stop every run of this Manager")
	f.BoolVar(&drain, "drain", false, "with --all: take no more runs until the Manager is started again")
	f.BoolVar(&wait, "wait", false, "wait until nothing of the VMs is left on the host")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.DurationVar(&grace, "grace", 0, "how long each guest may take to power off, a `DURATION` of 1s to 1h (default: as the Manager's configuration says)")
	return cmd
}

// askToStop has a person at a terminal say yes. What a run is named by is
// looked up first, so that the question has its full id.
func (a *app) askToStop(ctx context.Context, h *host, q *controlv1.StopRequest) error {
	if a.env.Interactive == nil || !a.env.Interactive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	var names []string
	if q.GetAll() {
		list, err := h.List(ctx, &controlv1.ListRequest{})
		if err != nil {
			return h.explain("stopping", err)
		}
		for _, r := range list.GetRuns() {
			names = append(names, describe(r))
		}
	}
	for i, name := range q.GetRuns() {
		s, err := h.Show(ctx, &controlv1.ShowRequest{Run: name})
		if err != nil {
			return h.explain("stopping", err)
		}
		q.Runs[i] = s.GetRun().GetRunId()
		names = append(names, describe(s.GetRun()))
	}
	if len(names) == 0 && !q.GetDrain() {
		return nil
	}
	what := fmt.Sprintf("Stop %d VMs", len(names))
	if q.GetDrain() {
		what += " and take no more runs"
	}
	fmt.Fprintf(a.out.stderr, "%s\n%s? [y/N] ", strings.Join(names, "\n"), what)
	answer := make(chan string, 1)
	go func() { // ends with its line, or with the process
		line, err := bufio.NewReader(a.env.Stdin).ReadString('\n')
		if err != nil {
			line = ""
		}
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case s := <-answer:
		if s == "y" || s == "yes" {
			return nil
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return advise(errors.New("not stopped: the answer was not yes"), "answer y, or give --yes")
}

func describe(r *controlv1.Run) string {
	return clean(fmt.Sprintf("%s %s %s", r.GetRunId(), r.GetState(), r.GetComputationName()))
}

func (a *app) stopped(s *controlv1.StopResponse, waited bool) error {
	info := stoppedInfo{Runs: []stoppedRun{}}
	var text strings.Builder
	bad := 0
	for _, r := range s.GetRuns() {
		info.Runs = append(info.Runs, stoppedRun{r.GetRunId(), r.GetGone(), r.GetProblem()})
		switch {
		case r.GetProblem() != "":
			bad++
			fmt.Fprintf(&text, "%s  %s\n", clean(r.GetRunId()), clean(r.GetProblem()))
		case r.GetGone():
			fmt.Fprintf(&text, "%s  gone\n", clean(r.GetRunId()))
		default:
			fmt.Fprintf(&text, "%s  is being stopped\n", clean(r.GetRunId()))
		}
	}
	if err := a.out.result(info, "%s", text.String()); err != nil {
		return err
	}
	switch {
	case bad > 0:
		return advise(fmt.Errorf("%d of %d runs could not be ended as asked", bad, len(info.Runs)), "cocos-cli manager show RUN tells more; then try again")
	case len(info.Runs) == 0:
		a.out.hint("there is no VM to stop")
	case !waited:
		a.out.hint("cocos-cli manager list shows when they are gone")
	}
	return nil
}

// argsInfo is what manager qemu-args prints as JSON.
type argsInfo struct {
	Argv []string `json:"argv"`
}

func (a *app) managerQemuArgsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "qemu-args [RUN]",
		Short: "Print the QEMU command line of a run, or the one that a run would get now",
		Long: `Print the QEMU command line of a run, quoted for a shell, or without a run the one
that a run would get now. Nothing is started. Its sockets are served by the VM's
shim: pasted as it is, it starts a VM only while those are there.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef(seeHelp(cmd), "unexpected argument %q", args[1])
			}
			if len(args) == 1 && args[0] == "" {
				return usagef(seeHelp(cmd), "RUN is empty")
			}
			return nil
		},
		ValidArgsFunction: a.completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHost(cmd, func(ctx context.Context, h *host) error {
				q := &controlv1.QemuArgsRequest{}
				if len(args) == 1 {
					q.Run = args[0]
				}
				r, err := h.QemuArgs(ctx, q)
				if err != nil {
					return h.explain("asking for the QEMU command", err)
				}
				if err := a.out.result(argsInfo{r.GetArgv()}, "%s\n", clean(qemu.Shell(r.GetArgv()))); err != nil {
					return err
				}
				if strings.Contains(strings.Join(r.GetArgv(), " "), ",vhostfd=") {
					a.out.hint("QEMU inherits the open vsock device: to run the command by hand, take out ,vhostfd=N")
				}
				return nil
			})
		},
	}
}
