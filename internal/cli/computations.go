package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

// computationParts that somebody can be given, in the order in which texts show
// them; "creator" comes with creating it.
var computationParts = []string{"editor", "runner", "viewer", "dataset-provider", "algorithm-provider", "consumer"}

type computationInfo struct {
	ID        string     `json:"id"`
	Workspace string     `json:"workspace_id"`
	Name      string     `json:"name"`
	TEE       string     `json:"tee"`
	Revision  int64      `json:"revision"`
	Created   *time.Time `json:"created"`
	// Digest is the frozen manifest's, as the service says; empty for a draft.
	Digest     string     `json:"manifest_digest,omitempty"`
	Frozen     *time.Time `json:"frozen,omitempty"`
	CopiedFrom string     `json:"copied_from,omitempty"`
	Archived   *time.Time `json:"archived,omitempty"`
	LastRun    string     `json:"last_run,omitempty"`
}

func infoOfComputation(c *computationsv1.Computation) computationInfo {
	return computationInfo{
		ID: c.GetId(), Workspace: c.GetWorkspaceId(), Name: c.GetName(), TEE: c.GetTee(), Revision: c.GetRevision(), Created: moment(c.GetCreated()),
		Digest: hex.EncodeToString(c.GetManifestDigest()), Frozen: moment(c.GetFrozen()), CopiedFrom: c.GetCopiedFrom(),
		Archived: moment(c.GetArchived()), LastRun: c.GetLastRun(),
	}
}

// state is for people.
func (i computationInfo) state() string {
	switch {
	case i.Archived != nil:
		return "archived"
	case i.Digest == "":
		return "draft"
	case i.LastRun == "":
		return "frozen"
	}
	return i.LastRun
}

func (a *app) computationsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "computations",
		Short: "Describe, freeze, approve, run and watch computations",
		Long: `Describe, freeze, approve, run and watch computations of the service that you are
signed in to. A COMPUTATION is named by its id, or by its name where no other of the
workspace is called so.`,
	}
	group(cmd,
		a.computationsListCmd(), a.computationsShowCmd(),
		a.computationsCreateCmd(), a.computationsEditCmd(), a.computationsPartsCmd(), a.computationsSupplyCmd(),
		a.computationsFreezeCmd(), a.computationsManifestCmd(), a.computationsApproveCmd(),
		a.computationsDryRunCmd(), a.computationsRunCmd(), a.computationsStopCmd(), a.computationsRunsCmd(),
		a.computationsWatchCmd(), a.computationsEntriesCmd(), a.computationsReceiptCmd(),
		a.computationsCopyCmd(), a.computationsExportCmd(), a.computationsImportCmd(), a.computationsArchiveCmd(),
	)
	return cmd
}

// computation finds the one that is meant.
func (s *service) computation(ctx context.Context, named, workspace string) (computationInfo, error) {
	if isID(named) {
		v, err := s.view(ctx, named)
		if err != nil {
			return computationInfo{}, err
		}
		return infoOfComputation(v.GetComputation()), nil
	}
	w, err := s.workspace(ctx, workspace)
	if err != nil {
		return computationInfo{}, err
	}
	all, err := s.listComputations(ctx, &computationsv1.ListComputationsRequest{WorkspaceId: w.ID, Text: named}, maxListed)
	if err != nil {
		return computationInfo{}, err
	}
	return only(all, named, "computation", "cocos-cli computations list", func(c computationInfo) string { return c.Name })
}

func (s *service) view(ctx context.Context, id string) (*computationsv1.GetComputationResponse, error) {
	v, err := s.computations.GetComputation(ctx, &computationsv1.GetComputationRequest{ComputationId: id})
	if err != nil {
		return nil, s.explain("asking for the computation", err)
	}
	return v, nil
}

func (s *service) listComputations(ctx context.Context, q *computationsv1.ListComputationsRequest, most int) ([]computationInfo, error) {
	return pages(func(token string) ([]computationInfo, string, error) {
		q.PageSize, q.PageToken = int32(min(most, maxPage)), token
		r, err := s.computations.ListComputations(ctx, q)
		if err != nil {
			return nil, "", s.explain("listing the computations", err)
		}
		return each(r.GetComputations(), infoOfComputation), r.GetNextPageToken(), nil
	}, most)
}

// withComputation runs a command that is about one computation.
func (a *app) withComputation(cmd *cobra.Command, named, workspace string, do func(context.Context, *service, computationInfo) error) error {
	return a.withService(cmd, func(ctx context.Context, s *service) error {
		c, err := s.computation(ctx, named, workspace)
		if err != nil {
			return err
		}
		return do(ctx, s, c)
	})
}

func (a *app) computationsListCmd() *cobra.Command {
	var (
		q         computationsv1.ListComputationsRequest
		workspace string
		limit     int
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the computations that you may see, the newest first",
		Example: `  cocos-cli computations list --mine
  cocos-cli computations list --state running --state queued`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > maxListed {
				return usagef("leave it out for the newest 100", "--limit %d: expected 1 to %d", limit, maxListed)
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, workspace)
				if err != nil {
					return err
				}
				q.WorkspaceId = w.ID
				all, err := s.listComputations(ctx, &q, limit)
				if err != nil {
					return err
				}
				return listed(a, "computations", all, []string{"NAME", "STATE", "TEE", "CREATED", "ID"}, func(c computationInfo) []string {
					return []string{c.Name, c.state(), c.TEE, when(c.Created), c.ID}
				}, "none that you may see: cocos-cli computations create NAME")
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.BoolVar(&q.Mine, "mine", false, "only those in which you have a part")
	f.StringVar(&q.Text, "text", "", "only those whose name has this `TEXT`")
	f.StringSliceVar(&q.States, "state", nil, "only those in this `STATE` (repeatable): draft, approvals, ready, or their newest run's")
	f.BoolVar(&q.Archived, "archived", false, "those that are archived, and not the others")
	f.IntVar(&limit, "limit", 100, "at most `N` of them")
	return cmd
}

// partyInfo is a person's place in a computation.
type partyInfo struct {
	User  string   `json:"user_id"`
	Email string   `json:"email"`
	Name  string   `json:"name"`
	Parts []string `json:"parts"`
	// Fingerprint of the key, as the service says; empty: none yet.
	Fingerprint string     `json:"fingerprint,omitempty"`
	MustApprove bool       `json:"must_approve"`
	Approved    *time.Time `json:"approved,omitempty"`
}

type todoInfo struct {
	Text    string `json:"text"`
	Command string `json:"command,omitempty"`
}

// computationView is what computations show prints as JSON.
type computationView struct {
	computationInfo
	Stage   string      `json:"stage"`
	Draft   draftInfo   `json:"draft"`
	Parties []partyInfo `json:"parties"`
	Mine    []string    `json:"mine"`
	Allowed []string    `json:"allowed"`
	Missing []string    `json:"missing"`
	// Servers are those that the agent may connect to, and ScratchBytes is the size of
	// the disk for inputs, as the service says.
	Servers      []string   `json:"servers"`
	ScratchBytes int64      `json:"scratch_bytes"`
	Runs         []runView  `json:"runs"`
	Todo         []todoInfo `json:"todo"`
}

func (a *app) computationsShowCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "show COMPUTATION",
		Short: "Show a computation, who takes part, and what you do next",
		Long: `Show a computation, who takes part, and what you do next, all as the service tells it.
What a frozen manifest really says, and whose keys it names, is shown by
cocos-cli computations approve, which reads it itself.`,
		Args: exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				r, err := s.view(ctx, c.ID)
				if err != nil {
					return err
				}
				v, err := s.viewInfo(ctx, r)
				if err != nil {
					return err
				}
				return a.out.result(v, "%s", v.text())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (s *service) viewInfo(ctx context.Context, r *computationsv1.GetComputationResponse) (*computationView, error) {
	c := infoOfComputation(r.GetComputation())
	d, err := s.draftInfo(ctx, c.Workspace, r)
	if err != nil {
		return nil, err
	}
	v := &computationView{
		computationInfo: c, Stage: r.GetStage(), Draft: d, Mine: append([]string{}, r.GetMine()...), Allowed: append([]string{}, r.GetAllowed()...),
		Missing: append([]string{}, r.GetMissing()...), Servers: append([]string{}, r.GetServers()...), ScratchBytes: r.GetScratchBytes(),
		Runs: each(r.GetRuns(), infoOfServiceRun),
		Todo: each(r.GetTodo(), func(t *computationsv1.Todo) todoInfo { return todoInfo{t.GetText(), t.GetCommand()} }),
	}
	for _, p := range r.GetParties() {
		v.Parties = append(v.Parties, partyInfo{
			p.GetUserId(), p.GetEmail(), p.GetName(), append([]string{}, p.GetParts()...), fingerprint(p.GetPublicKey()), p.GetMustApprove(), moment(p.GetApproved()),
		})
	}
	return v, nil
}

func (v *computationView) text() string {
	var r rows
	r.add("computation", "%s (%s)", packed(v.Name), v.ID)
	stage := v.Stage
	if v.Archived != nil {
		stage += ", archived " + when(v.Archived)
	}
	r.add("stage", "%s", stage)
	if v.Digest != "" {
		r.add("manifest", "%s, frozen %s", v.Digest, when(v.Frozen))
	} else {
		r.add("revision", "%d", v.Revision)
	}
	v.Draft.rows(&r)
	v.inputRows(&r)
	for _, p := range v.Parties {
		text := p.Email + ": " + strings.Join(p.Parts, ", ")
		switch {
		case p.Approved != nil:
			text += "; approved " + when(p.Approved)
		case p.MustApprove:
			text += "; approval is missing"
		}
		r.add("party", "%s", text)
		if p.Fingerprint != "" {
			r.add("", "%s", p.Fingerprint)
		}
	}
	for _, m := range v.Missing {
		r.add("missing", "%s", m)
	}
	for _, run := range v.Runs {
		r.add("run", "%s", run.line())
	}
	for i, t := range v.Todo {
		r.add(yes(i == 0, "next"), "%s", packed(t.Text))
		if t.Command != "" {
			r.add("", "  %s", t.Command)
		}
	}
	return r.String()
}

// plural is "1 run", "2 runs".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
