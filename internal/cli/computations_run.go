package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

// checkInfo is one line of a dry run.
type checkInfo struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
	Hint  string `json:"hint,omitempty"`
}

func (a *app) computationsDryRunCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "dry-run COMPUTATION",
		Short: "Check all that a run needs, and run nothing",
		Long: `Check all that a run needs, and run nothing. The exit status is 1 if something is
missing.`,
		Args: exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				r, err := s.computations.DryRun(ctx, &computationsv1.DryRunRequest{ComputationId: c.ID})
				if err != nil {
					return s.explain("checking", err)
				}
				checks := each(r.GetChecks(), func(c *computationsv1.Check) checkInfo {
					return checkInfo{c.GetName(), c.GetOk(), c.GetFound(), c.GetHint()}
				})
				missing := 0
				for _, c := range checks {
					if !c.OK {
						missing++
					}
				}
				if err := listed(a, "checks", checks, []string{"CHECK", "STATE", "FOUND", "WHAT TO DO"}, func(c checkInfo) []string {
					verdict := "ok"
					if !c.OK {
						verdict = "MISSING"
					}
					return []string{c.Name, verdict, c.Found, c.Hint}
				}, "there is nothing to check"); err != nil {
					return err
				}
				if missing > 0 {
					return advise(fmt.Errorf("it can't be run yet: %s failed", plural(missing, "check")), "do what the table says")
				}
				return nil
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) computationsRunCmd() *cobra.Command {
	var (
		workspace string
		watch     bool
	)
	cmd := &cobra.Command{
		Use:   "run COMPUTATION",
		Short: "Start a run of a computation that is frozen and approved",
		Args:  exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				r, err := s.runs.StartRun(ctx, &computationsv1.StartRunRequest{ComputationId: c.ID})
				if err != nil {
					return s.explain("starting the run", err)
				}
				info := infoOfServiceRun(r.GetRun())
				if watch {
					return a.watch(ctx, s, info.ID, 0)
				}
				if err := a.out.result(info, "%s\n", info.ID); err != nil {
					return err
				}
				a.out.hint("run %d is %s; cocos-cli computations watch %s follows it", info.Number, clean(info.State), info.ID)
				return nil
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.Flags().BoolVar(&watch, "watch", false, "follow it until it ends, as computations watch does")
	return cmd
}

// run finds a run: by its id, or as the newest one of a computation.
func (s *service) run(ctx context.Context, named, workspace string) (runView, error) {
	if isID(named) {
		r, err := s.runs.GetRun(ctx, &computationsv1.GetRunRequest{RunId: named})
		if err == nil {
			return infoOfServiceRun(r.GetRun()), nil
		}
		if status.Code(err) != codes.NotFound {
			return runView{}, s.explain("asking for the run", err)
		}
	}
	c, err := s.computation(ctx, named, workspace)
	if err != nil {
		return runView{}, err
	}
	all, err := s.listRuns(ctx, c.ID, 1)
	if err != nil {
		return runView{}, err
	}
	if len(all) == 0 {
		return runView{}, advise(errors.New("the computation has not been run yet"), "cocos-cli computations run %s", c.ID)
	}
	return all[0], nil
}

func (s *service) listRuns(ctx context.Context, computation string, most int) ([]runView, error) {
	return pages(func(token string) ([]runView, string, error) {
		r, err := s.runs.ListRuns(ctx, &computationsv1.ListRunsRequest{ComputationId: computation, PageSize: int32(min(most, maxPage)), PageToken: token})
		if err != nil {
			return nil, "", s.explain("listing the runs", err)
		}
		return each(r.GetRuns(), infoOfServiceRun), r.GetNextPageToken(), nil
	}, most)
}

// withRun runs a command that is about one run.
func (a *app) withRun(cmd *cobra.Command, named, workspace string, do func(context.Context, *service, runView) error) error {
	return a.withService(cmd, func(ctx context.Context, s *service) error {
		r, err := s.run(ctx, named, workspace)
		if err != nil {
			return err
		}
		return do(ctx, s, r)
	})
}

func (a *app) computationsRunsCmd() *cobra.Command {
	var (
		workspace string
		limit     int
	)
	cmd := &cobra.Command{
		Use:   "runs COMPUTATION",
		Short: "List the runs of a computation, the newest first",
		Args:  exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > maxListed {
				return usagef("leave it out for the newest 100", "--limit %d: expected 1 to %d", limit, maxListed)
			}
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				all, err := s.listRuns(ctx, c.ID, limit)
				if err != nil {
					return err
				}
				return listed(a, "runs", all, []string{"NO", "STATE", "REASON", "AGENT", "CREATED", "ENDED", "ID"}, func(r runView) []string {
					state := r.State
					if r.Simulated {
						state += " SIMULATED"
					}
					return []string{fmt.Sprint(r.Number), state, r.Reason, r.AgentAddress, when(r.Created), when(r.Ended), r.ID}
				}, "it has not been run yet")
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.Flags().IntVar(&limit, "limit", 100, "at most `N` of them")
	return cmd
}

func (a *app) computationsStopCmd() *cobra.Command {
	var (
		workspace string
		sure      bool
	)
	cmd := &cobra.Command{
		Use:   "stop RUN|COMPUTATION",
		Short: "Ask for the end of a run; what it has not finished is lost",
		Args:  exactly("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd, args[0], workspace, func(ctx context.Context, s *service, r runView) error {
				if !sure {
					if err := a.agree(ctx, "Stop run %d (%s)? What it has not finished is lost.", r.Number, r.ID); err != nil {
						return err
					}
				}
				if _, err := s.runs.StopRun(ctx, &computationsv1.StopRunRequest{RunId: r.ID}); err != nil {
					return s.explain("stopping the run", err)
				}
				if err := a.out.result(map[string]string{"id": r.ID}, "%s\n", r.ID); err != nil {
					return err
				}
				a.out.hint("asked for its end; cocos-cli computations watch %s shows it", r.ID)
				return nil
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	yesFlag(cmd, &sure)
	return cmd
}
