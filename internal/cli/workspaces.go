package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

// workspaceVar names the workspace where no flag does.
const workspaceVar = "COCOS_WORKSPACE"

type workspaceInfo struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Created *time.Time `json:"created"`
	// Keep is how long entries of ended runs are kept; empty: for ever.
	Keep string `json:"keep_entries,omitempty"`
}

func infoOfWorkspace(w *computationsv1.Workspace) workspaceInfo {
	i := workspaceInfo{ID: w.GetId(), Name: w.GetName(), Created: moment(w.GetCreated())}
	if k := w.GetKeepEntries(); k != nil {
		i.Keep = k.AsDuration().String()
	}
	return i
}

// workspaceFlag is for commands that are about one workspace.
func workspaceFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "workspace", "", "the workspace, by `NAME` or id, where you are in several [$"+workspaceVar+"]")
}

// isID tells whether s can be the id of a thing.
func isID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

// workspace finds the one that is meant.
func (s *service) workspace(ctx context.Context, named string) (workspaceInfo, error) {
	if named == "" {
		named = s.app.env.Getenv(workspaceVar)
	}
	r, err := s.workspaces.ListWorkspaces(ctx, &computationsv1.ListWorkspacesRequest{})
	if err != nil {
		return workspaceInfo{}, s.explain("looking for the workspace", err)
	}
	var (
		all   []string
		found []workspaceInfo
	)
	for _, w := range r.GetWorkspaces() {
		all = append(all, w.GetName())
		if named == "" || w.GetId() == named || strings.EqualFold(w.GetName(), named) {
			found = append(found, infoOfWorkspace(w))
		}
	}
	slices.Sort(all)
	switch {
	case len(all) == 0:
		return workspaceInfo{}, advise(errors.New("you are in no workspace"), "cocos-cli workspaces create NAME makes one; to come into another's, ask for an invitation")
	case len(found) == 1:
		return found[0], nil
	case named == "":
		return workspaceInfo{}, usagef("say which: --workspace NAME, or set "+workspaceVar, "you are in several workspaces: %s", clean(strings.Join(all, ", ")))
	case len(found) > 1:
		return workspaceInfo{}, usagef("give its id; cocos-cli workspaces shows it", "several workspaces are called %q", named)
	}
	return workspaceInfo{}, advise(fmt.Errorf("you are in no workspace %q", named), "you are in: %s", clean(strings.Join(all, ", ")))
}

func (a *app) workspacesCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workspaces",
		Short: "List your workspaces, make one, look after it",
		Long: `List your workspaces. A workspace keeps the computations, the assets and the people of
one group to themselves.`,
		Example: `  cocos-cli workspaces
  cocos-cli workspaces create "Harbour study"`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				r, err := s.workspaces.ListWorkspaces(ctx, &computationsv1.ListWorkspacesRequest{})
				if err != nil {
					return s.explain("listing the workspaces", err)
				}
				return listed(a, "workspaces", each(r.GetWorkspaces(), infoOfWorkspace), []string{"NAME", "CREATED", "KEEPS", "ID"},
					func(w workspaceInfo) []string {
						keeps := w.Keep
						if keeps == "" {
							keeps = "for ever"
						}
						return []string{w.Name, when(w.Created), keeps, w.ID}
					}, "you are in no workspace yet: cocos-cli workspaces create NAME")
			})
		},
	}
	cmd.AddCommand(a.workspacesCreateCmd(), a.workspacesRenameCmd(), a.workspacesKeepCmd())
	return cmd
}

func (a *app) workspacesCreateCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME",
		Short: "Make a workspace, with you as its administrator",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				r, err := s.workspaces.CreateWorkspace(ctx, &computationsv1.CreateWorkspaceRequest{Name: args[0]})
				if err != nil {
					return s.explain("making the workspace", err)
				}
				info := infoOfWorkspace(r.GetWorkspace())
				return a.out.result(info, "%s\n", info.ID)
			})
		},
	}
}

func (a *app) workspacesRenameCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rename WORKSPACE NAME",
		Short: "Give a workspace another name",
		Args:  exactly("WORKSPACE", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, args[0])
				if err != nil {
					return err
				}
				if _, err := s.workspaces.RenameWorkspace(ctx, &computationsv1.RenameWorkspaceRequest{WorkspaceId: w.ID, Name: args[1]}); err != nil {
					return s.explain("renaming the workspace", err)
				}
				w.Name = args[1]
				return a.out.result(w, "%s\n", w.ID)
			})
		},
	}
}

func (a *app) workspacesKeepCmd() *cobra.Command {
	var (
		workspace string
		sure      bool
	)
	cmd := &cobra.Command{
		Use:   "keep DURATION",
		Short: "Say how long events and logs of ended runs are kept; 0: for ever",
		Long: `Say how long events and logs of ended runs are kept; 0: for ever. Older ones are
deleted within a minute, for good.`,
		Example: `  cocos-cli workspaces keep 2160h
  cocos-cli workspaces keep 0`,
		Args: exactly("DURATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := time.ParseDuration(args[0])
			if err != nil || d < 0 {
				return usagef("for example 720h, or 0 for ever", "DURATION %q is not a duration", args[0])
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, workspace)
				if err != nil {
					return err
				}
				if !sure && w.keepsLonger(d) {
					if err := a.agree(ctx, "Delete the events and logs of runs in %s that ended more than %s ago, for good?", w.Name, d); err != nil {
						return err
					}
				}
				if _, err := s.workspaces.SetRetention(ctx, &computationsv1.SetRetentionRequest{WorkspaceId: w.ID, KeepEntries: durationpb.New(d)}); err != nil {
					return s.explain("changing how long entries are kept", err)
				}
				if w.Keep = ""; d > 0 {
					w.Keep = d.String()
				}
				return a.out.result(w, "%s\n", w.ID)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	yesFlag(cmd, &sure)
	return cmd
}

// keepsLonger tells whether entries would go that are kept now; zero is for ever.
func (i workspaceInfo) keepsLonger(than time.Duration) bool {
	now, err := time.ParseDuration(i.Keep)
	return than > 0 && (err != nil || now > than)
}

// each turns a list of messages into what the CLI shows.
func each[M, T any](list []M, info func(M) T) []T {
	out := make([]T, len(list))
	for i, m := range list {
		out[i] = info(m)
	}
	return out
}
