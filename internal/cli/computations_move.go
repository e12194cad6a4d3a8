package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/receipt"
)

// maxExport bounds an exported computation, in bytes.
const maxExport = 1 << 20

func (a *app) computationsCopyCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "copy COMPUTATION",
		Short: "Begin a draft like a computation, such as one that is frozen",
		Args:  exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				r, err := s.computations.CopyComputation(ctx, &computationsv1.CopyComputationRequest{ComputationId: c.ID})
				if err != nil {
					return s.explain("copying", err)
				}
				return a.showComputation(r.GetComputation())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) computationsExportCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "export COMPUTATION",
		Short: "Print a computation's description as JSON, for computations import",
		Example: `  cocos-cli computations export iris > iris.json
  cocos-cli computations import iris.json --workspace Elsewhere`,
		Args: exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				r, err := s.computations.ExportComputation(ctx, &computationsv1.ExportComputationRequest{ComputationId: c.ID})
				if err != nil {
					return s.explain("exporting", err)
				}
				return a.out.write(r.GetJson())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) computationsImportCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Begin a draft from what computations export printed",
		Long: `Begin a draft from what computations export printed, here or at another service.
Everybody in it must be a member of the workspace. An asset is found by its digest
among its owner's; where it isn't there, it has to be supplied.`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readSmall(args[0], maxExport)
			if err != nil {
				return fmt.Errorf("reading the file: %w", err)
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, workspace)
				if err != nil {
					return err
				}
				r, err := s.computations.ImportComputation(ctx, &computationsv1.ImportComputationRequest{WorkspaceId: w.ID, Json: raw})
				if err != nil {
					return s.explain("importing "+args[0], err)
				}
				return a.showComputation(r.GetComputation())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) computationsArchiveCmd() *cobra.Command {
	var (
		workspace string
		undo      bool
	)
	cmd := &cobra.Command{
		Use:   "archive COMPUTATION",
		Short: "Keep a computation out of lists, or with --undo no longer",
		Args:  exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				id, err := s.anyComputation(ctx, args[0], workspace, undo)
				if err != nil {
					return err
				}
				if _, err := s.computations.ArchiveComputation(ctx, &computationsv1.ArchiveComputationRequest{ComputationId: id, Archived: !undo}); err != nil {
					return s.explain("archiving", err)
				}
				return a.out.result(map[string]any{"id": id, "archived": !undo}, "%s\n", id)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.Flags().BoolVar(&undo, "undo", false, "take it out of the archive")
	return cmd
}

// anyComputation finds one in lists, or in the archive.
func (s *service) anyComputation(ctx context.Context, named, workspace string, archived bool) (string, error) {
	if isID(named) || !archived {
		c, err := s.computation(ctx, named, workspace)
		return c.ID, err
	}
	w, err := s.workspace(ctx, workspace)
	if err != nil {
		return "", err
	}
	all, err := s.listComputations(ctx, &computationsv1.ListComputationsRequest{WorkspaceId: w.ID, Text: named, Archived: true}, maxListed)
	if err != nil {
		return "", err
	}
	c, err := only(all, named, "archived computation", "cocos-cli computations list --archived", func(c computationInfo) string { return c.Name })
	return c.ID, err
}

func (a *app) computationsReceiptCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receipt",
		Short: "Hand in the receipt of a run, or fetch the one that was handed in",
	}
	group(cmd, a.computationsReceiptSubmitCmd(), a.computationsReceiptGetCmd())
	return cmd
}

func (a *app) computationsReceiptSubmitCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "submit RUN|COMPUTATION FILE",
		Short: "Hand in the receipt of a run, for its other consumers",
		Long: `Hand in the receipt of a run, as cocos-cli result or receipt get wrote it, for the
computation's other consumers. The service keeps it and does not vouch for it.`,
		Args: exactly("RUN", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readSmall(args[1], receipt.MaxSize)
			if err != nil {
				return fmt.Errorf("reading the receipt: %w", err)
			}
			if _, err := receipt.Parse(raw); err != nil {
				return badReceipt(args[1], err)
			}
			return a.withRun(cmd, args[0], workspace, func(ctx context.Context, s *service, r runView) error {
				if _, err := s.runs.SubmitReceipt(ctx, &computationsv1.SubmitReceiptRequest{RunId: r.ID, Receipt: raw}); err != nil {
					return s.explain("handing in the receipt", err)
				}
				return a.out.result(map[string]string{"run_id": r.ID}, "%s\n", r.ID)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) computationsReceiptGetCmd() *cobra.Command {
	var workspace, out string
	cmd := &cobra.Command{
		Use:   "get RUN|COMPUTATION",
		Short: "Fetch the receipt that a consumer handed in; verify it yourself",
		Long: `Fetch the receipt that a consumer handed in. It is kept as it is, and nothing of it is
verified: the service, or whoever handed it in, could have written anything.
cocos-cli receipt verify verifies it by your own policy.`,
		Args: exactly("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd, args[0], workspace, func(ctx context.Context, s *service, r runView) error {
				m, err := s.runs.GetReceipt(ctx, &computationsv1.GetReceiptRequest{RunId: r.ID})
				if err != nil {
					return s.explain("fetching the receipt", err)
				}
				held, err := receipt.Parse(m.GetReceipt())
				if err != nil {
					return badReceipt("the receipt of "+r.ID, err)
				}
				if err := keepFile(out, m.GetReceipt()); err != nil {
					return err
				}
				a.out.hint("wrote %s", out)
				return a.showReceipt(held, shownReceipt{})
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.Flags().StringVar(&out, "out", "receipt.json", "`FILE` for the receipt")
	return cmd
}
