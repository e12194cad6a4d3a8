package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

type auditInfo struct {
	Sequence  int64             `json:"sequence"`
	At        *time.Time        `json:"at"`
	Workspace string            `json:"workspace_id,omitempty"`
	Actor     string            `json:"actor_id,omitempty"`
	Email     string            `json:"actor,omitempty"`
	Action    string            `json:"action"`
	Object    string            `json:"object_id,omitempty"`
	Detail    map[string]string `json:"detail,omitempty"`
	Previous  string            `json:"previous"`
	Hash      string            `json:"hash"`
}

func infoOfAudit(e *computationsv1.AuditEntry) auditInfo {
	return auditInfo{
		Sequence: e.GetSequence(), At: moment(e.GetAt()), Workspace: e.GetWorkspaceId(), Actor: e.GetActorId(), Email: e.GetActorEmail(),
		Action: e.GetAction(), Object: e.GetObjectId(), Detail: e.GetDetail(),
		Previous: hex.EncodeToString(e.GetPrevious()), Hash: hex.EncodeToString(e.GetHash()),
	}
}

// details are the values that are not empty, in order of their names.
func (i auditInfo) details() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(i.Detail)) {
		if v := i.Detail[name]; v != "" {
			parts = append(parts, name+"="+v)
		}
	}
	return strings.Join(parts, " ")
}

func (a *app) auditCmd() *cobra.Command {
	var (
		q                   computationsv1.ListAuditRequest
		workspace, from, to string
		whole               bool
		limit               int
	)
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who did what in a workspace, the newest first",
		Long: `List who did what in a workspace, for its administrators and managers; or, with
--service, to the service as a whole, for its operators. The newest come first.`,
		Example: `  cocos-cli audit --limit 20
  cocos-cli audit --action computation.freeze --from 2026-11-01T00:00:00Z`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > maxListed {
				return usagef("leave it out for the newest 100", "--limit %d: expected 1 to %d", limit, maxListed)
			}
			if whole && workspace != "" {
				return usagef("give one of them", "--service and --workspace exclude each other")
			}
			var err error
			if q.From, err = stampFlag("--from", from); err != nil {
				return err
			}
			if q.To, err = stampFlag("--to", to); err != nil {
				return err
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				if !whole {
					w, err := s.workspace(ctx, workspace)
					if err != nil {
						return err
					}
					q.WorkspaceId = w.ID
					if q.ActorId, err = s.user(ctx, w.ID, q.ActorId); err != nil {
						return err
					}
				}
				all, err := pages(func(token string) ([]auditInfo, string, error) {
					q.PageSize, q.PageToken = int32(min(limit, maxPage)), token
					r, err := s.audit.ListAudit(ctx, &q)
					if err != nil {
						return nil, "", s.explain("reading the audit log", err)
					}
					return each(r.GetEntries(), infoOfAudit), r.GetNextPageToken(), nil
				}, limit)
				if err != nil {
					return err
				}
				return listed(a, "entries", all, []string{"NO", "TIME", "WHO", "ACTION", "OBJECT", "DETAIL"}, func(i auditInfo) []string {
					return []string{fmt.Sprint(i.Sequence), when(i.At), i.Email, i.Action, i.Object, i.details()}
				}, "nothing of that kind")
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.BoolVar(&whole, "service", false, "of the service as a whole, for its operators")
	f.StringVar(&q.ActorId, "actor", "", "only what this person did, an `EMAIL` (with --service an id)")
	f.StringVar(&q.Action, "action", "", "only this `ACTION`, such as computation.freeze")
	f.StringVar(&q.ObjectId, "object", "", "only what was done to the thing of this `ID`")
	f.StringVar(&from, "from", "", "only from this `TIME` (RFC 3339) on")
	f.StringVar(&to, "to", "", "only until this `TIME` (RFC 3339)")
	f.IntVar(&limit, "limit", 100, "at most `N` of them")
	return cmd
}

// user is the id of a member of an address, if one is given.
func (s *service) user(ctx context.Context, workspace, email string) (string, error) {
	if email == "" || isID(email) {
		return email, nil
	}
	all, err := s.members(ctx, workspace)
	if err != nil {
		return "", err
	}
	m, err := member(all, email)
	return m.User, err
}

// stampFlag reads a flag with a time; empty: none.
func stampFlag(flag, value string) (*timestamppb.Timestamp, error) {
	if value == "" {
		return nil, nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return nil, usagef("such as 2026-11-01T00:00:00Z", "%s %q is not a time of RFC 3339", flag, value)
	}
	return timestamppb.New(t), nil
}
