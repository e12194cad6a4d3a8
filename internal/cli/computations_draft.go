package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// draftFlags are those with which a draft is described. In them people have
// addresses, and assets names.
type draftFlags struct {
	name, description, tee, algorithmProvider, image string
	attested                                         bool
	args, env, datasets, consumers, approvers        []string
	release, releaseOutput                           []string
	pad, operatorOutput                              bool
	limits                                           computationsv1.Limits
	resultMax                                        int64
	scratch                                          string
	ttl                                              time.Duration
}

func (d *draftFlags) add(f *pflag.FlagSet) {
	f.StringVar(&d.description, "description", "", "what it is about, for people")
	f.StringVar(&d.tee, "tee", "", "`TEE` to run in: "+strings.Join(teeNames(), ", "))
	f.BoolVar(&d.attested, "attested", true, "participants talk with the VM over attested TLS only; not with --tee none")
	f.StringVar(&d.algorithmProvider, "algorithm", "", "`EMAIL` of who brings the algorithm")
	f.StringArrayVar(&d.args, "arg", nil, "an argument of the algorithm (repeatable, in order)")
	f.StringArrayVar(&d.env, "env", nil, "a variable of the algorithm, `NAME=VALUE` (repeatable)")
	f.StringArrayVar(&d.datasets, "dataset", nil, "a dataset, `NAME=EMAIL` of who brings it, or NAME alone (repeatable)")
	f.StringArrayVar(&d.consumers, "consumer", nil, "`EMAIL` of who gets the result (repeatable)")
	f.StringArrayVar(&d.approvers, "approver", nil, "`EMAIL` of who must approve (repeatable; default: every party, where it is attested)")
	sizeFlag(f, &d.limits.MemoryBytes, "memory-bytes", "bound of the algorithm's memory, a `SIZE` such as 512MiB")
	f.Int64Var(&d.limits.Processes, "processes", 0, "bound of its processes")
	f.Int64Var(&d.limits.Seconds, "seconds", 0, "bound of its time, in `SECONDS`")
	sizeFlag(f, &d.limits.OutputBytes, "output-bytes", "bound of what it prints and leaves, a `SIZE`")
	f.Int64Var(&d.limits.CpuMilli, "cpu-milli", 0, "bound of its share of the processors, in `THOUSANDTHS` of one")
	sizeFlag(f, &d.resultMax, "result-max", "bound of the result's archive, a `SIZE`")
	f.StringArrayVar(&d.release, "release", nil, "what a consumer gets of results/, `EMAIL=PATTERN`, or EMAIL alone for nothing of it (repeatable; default: each gets everything)")
	f.StringArrayVar(&d.releaseOutput, "release-output", nil, "`EMAIL` of a consumer who gets what it prints, too, where --release divides the result (repeatable)")
	f.BoolVar(&d.pad, "pad", false, "pad the result's archive to --result-max")
	f.BoolVar(&d.operatorOutput, "operator-output", false, "let the host's operator read what it prints, if every party approves")
	f.StringVar(&d.scratch, "scratch", "auto", "whether inputs go to a disk that the agent encrypts: auto (if they are large), always, never, or a size such as 20GiB")
	f.StringVar(&d.image, "image", "", "`DIGEST` of the guest image that a host must have")
	f.DurationVar(&d.ttl, "ttl", 0, "how long a run's VM may live, a `DURATION`")
}

func teeNames() []string {
	var all []string
	for _, t := range manifest.TEEs() {
		all = append(all, string(t))
	}
	return all
}

// apply changes a draft as the flags say that were given.
func (d *draftFlags) apply(f *pflag.FlagSet, to *computationsv1.Draft, people []memberInfo) error {
	if to.Algorithm == nil {
		to.Algorithm = &computationsv1.AlgorithmSlot{}
	}
	if to.Algorithm.Limits == nil {
		to.Algorithm.Limits = &computationsv1.Limits{}
	}
	limits := to.Algorithm.Limits
	var (
		errs    []error
		unknown []rpcerr.Fault
	)
	person := func(flag, email string) string {
		if email == "" {
			return ""
		}
		m, err := member(people, email)
		if err != nil {
			unknown = append(unknown, rpcerr.Fault{Field: "--" + flag, Message: err.Error()})
		}
		return m.User
	}
	set := map[string]func() error{
		"name":            func() error { to.Name = d.name; return nil },
		"description":     func() error { to.Description = d.description; return nil },
		"tee":             func() error { to.Tee = d.tee; return nil },
		"attested":        func() error { to.AttestedTls = d.attested; return nil },
		"image":           func() error { to.Image = d.image; return nil },
		"arg":             func() error { to.Algorithm.Args = d.args; return nil },
		"memory-bytes":    func() error { limits.MemoryBytes = d.limits.GetMemoryBytes(); return nil },
		"processes":       func() error { limits.Processes = d.limits.GetProcesses(); return nil },
		"seconds":         func() error { limits.Seconds = d.limits.GetSeconds(); return nil },
		"output-bytes":    func() error { limits.OutputBytes = d.limits.GetOutputBytes(); return nil },
		"cpu-milli":       func() error { limits.CpuMilli = d.limits.GetCpuMilli(); return nil },
		"result-max":      func() error { to.ResultMax = d.resultMax; return nil },
		"pad":             func() error { to.Pad = d.pad; return nil },
		"operator-output": func() error { to.OperatorOutput = d.operatorOutput; return nil },
		"scratch":         func() error { return d.setScratch(to) },
		"release":         func() error { to.Release = d.released(person); return nil },
		"release-output":  func() error { to.Release = d.released(person); return nil },
		"ttl":             func() error { to.Ttl = durationpb.New(d.ttl); return nil },
		"algorithm": func() error {
			id := person("algorithm", d.algorithmProvider)
			if id != to.Algorithm.GetProviderId() {
				to.Algorithm.ProviderId, to.Algorithm.AssetId = id, "" // it was another's
			}
			return nil
		},
		"env": func() error {
			to.Algorithm.Env = map[string]string{}
			for _, v := range d.env {
				name, value, ok := strings.Cut(v, "=")
				if !ok {
					return usagef("for example --env ALPHA=0.5", "--env %q is not NAME=VALUE", v)
				}
				to.Algorithm.Env[name] = value
			}
			return nil
		},
		"dataset": func() error {
			var slots []*computationsv1.DatasetSlot
			for _, v := range d.datasets {
				name, email, _ := strings.Cut(v, "=")
				slot := &computationsv1.DatasetSlot{Name: name, ProviderId: person("dataset", email)}
				i := slices.IndexFunc(to.Datasets, func(old *computationsv1.DatasetSlot) bool {
					return old.GetName() == name && old.GetProviderId() == slot.ProviderId
				})
				if i >= 0 {
					slot.AssetId = to.Datasets[i].GetAssetId()
				}
				slots = append(slots, slot)
			}
			to.Datasets = slots
			return nil
		},
		"consumer": func() error {
			to.ConsumerIds = each(d.consumers, func(email string) string { return person("consumer", email) })
			return nil
		},
		"approver": func() error {
			to.ApproverIds = each(d.approvers, func(email string) string { return person("approver", email) })
			return nil
		},
	}
	f.Visit(func(flag *pflag.Flag) {
		if change := set[flag.Name]; change != nil {
			if err := change(); err != nil {
				errs = append(errs, err)
			}
		}
	})
	if len(errs) > 0 {
		return errs[0]
	}
	if len(unknown) > 0 {
		return &problem{err: errors.New("not everybody is a member of the workspace"), faults: unknown,
			hint: "leave them out here, and invite them into the computation then: cocos-cli invitations create EMAIL --computation NAME --part PART"}
	}
	return nil
}

func (a *app) computationsCreateCmd() *cobra.Command {
	var (
		d         draftFlags
		workspace string
	)
	cmd := &cobra.Command{
		Use:   "create NAME --tee TEE",
		Short: "Begin the draft of a computation, with you as its creator",
		Long: `Begin the draft of a computation, with you as its creator. People are named by the
addresses of their accounts, and must be members of the workspace; those who are not
yet are invited into the computation afterwards (cocos-cli invitations create).`,
		Example: `  cocos-cli computations create iris --tee sev-snp --algorithm alice@example.org \
    --dataset iris.csv=bob@example.org --consumer carol@example.org`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if d.tee == "" {
				return usagef("one of "+strings.Join(teeNames(), ", ")+"; none is a plain VM, which its host can read", "--tee is missing")
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, workspace)
				if err != nil {
					return err
				}
				people, err := s.members(ctx, w.ID)
				if err != nil {
					return err
				}
				draft := &computationsv1.Draft{Name: args[0], AttestedTls: d.tee != string(manifest.TEENone)}
				if err := d.apply(cmd.Flags(), draft, people); err != nil {
					return err
				}
				r, err := s.computations.CreateComputation(ctx, &computationsv1.CreateComputationRequest{WorkspaceId: w.ID, Draft: draft})
				if err != nil {
					return s.explain("beginning the computation", err)
				}
				return a.showComputation(r.GetComputation())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	d.add(cmd.Flags())
	complete(cmd, "tee", teeNames)
	return cmd
}

// showComputation prints a computation that was made or changed.
func (a *app) showComputation(c *computationsv1.Computation) error {
	info := infoOfComputation(c)
	if err := a.out.result(info, "%s\n", info.ID); err != nil {
		return err
	}
	a.out.hint("what to do next: cocos-cli computations show %s", info.ID)
	return nil
}

func (a *app) computationsEditCmd() *cobra.Command {
	var (
		d         draftFlags
		workspace string
	)
	cmd := &cobra.Command{
		Use:   "edit COMPUTATION",
		Short: "Change a draft; what no flag names stays as it is",
		Long: `Change a draft. What no flag names stays as it is; a list that is given replaces the
one that is there. A change that somebody else made meanwhile is never overwritten.`,
		Example: `  cocos-cli computations edit iris --seconds 600 --consumer carol@example.org`,
		Args:    exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				v, err := s.view(ctx, c.ID)
				if err != nil {
					return err
				}
				people, err := s.members(ctx, c.Workspace)
				if err != nil {
					return err
				}
				if err := d.apply(cmd.Flags(), v.GetDraft(), people); err != nil {
					return err
				}
				r, err := s.computations.EditDraft(ctx, &computationsv1.EditDraftRequest{
					ComputationId: c.ID, Revision: v.GetComputation().GetRevision(), Draft: v.GetDraft(),
				})
				if err != nil {
					return s.explain("changing the draft", err)
				}
				return a.showComputation(r.GetComputation())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.StringVar(&d.name, "name", "", "another name")
	d.add(f)
	complete(cmd, "tee", teeNames)
	return cmd
}

func (a *app) computationsPartsCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "parts COMPUTATION EMAIL [PART...]",
		Short: "Say what a member is in a computation; without PART: nothing any more",
		Long: `Say what a member of the workspace is in a computation; without PART: nothing any more.
PART is one of: ` + strings.Join(computationParts, ", ") + `.`,
		Example: `  cocos-cli computations parts iris dave@example.org runner viewer`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return exactly("COMPUTATION", "EMAIL")(cmd, args)
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= 2 {
				return computationParts, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				people, err := s.members(ctx, c.Workspace)
				if err != nil {
					return err
				}
				m, err := member(people, args[1])
				if err != nil {
					return err
				}
				if _, err := s.computations.SetParts(ctx, &computationsv1.SetPartsRequest{ComputationId: c.ID, UserId: m.User, Parts: args[2:]}); err != nil {
					return s.explain("changing the parts", err)
				}
				return a.out.result(map[string]any{"computation_id": c.ID, "user_id": m.User, "parts": append([]string{}, args[2:]...)},
					"%s  %s\n", clean(m.Email), strings.Join(args[2:], ", "))
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) computationsSupplyCmd() *cobra.Command {
	var (
		workspace, key, algorithm string
		datasets                  []string
	)
	cmd := &cobra.Command{
		Use:   "supply COMPUTATION",
		Short: "Say which of your keys and assets you bring to a draft",
		Example: `  cocos-cli computations supply iris --key bob --dataset iris.csv=iris-2026
  cocos-cli computations supply iris --algorithm lin_reg.py`,
		Args: exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" && algorithm == "" && len(datasets) == 0 {
				return usagef("give --key KEY, --algorithm ASSET or --dataset NAME=ASSET", "there is nothing to supply")
			}
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				var all []*computationsv1.SupplyRequest
				if key != "" {
					k, err := s.ownKey(ctx, key)
					if err != nil {
						return err
					}
					all = append(all, &computationsv1.SupplyRequest{ComputationId: c.ID, KeyId: k.ID})
				}
				slot := func(name, named string) error {
					i, err := s.asset(ctx, named, c.Workspace)
					if err != nil {
						return err
					}
					all = append(all, &computationsv1.SupplyRequest{ComputationId: c.ID, Slot: name, AssetId: i.ID})
					return nil
				}
				if algorithm != "" {
					if err := slot("algorithm", algorithm); err != nil {
						return err
					}
				}
				for _, d := range datasets {
					name, named, ok := strings.Cut(d, "=")
					if !ok {
						return usagef("NAME is the computation's, ASSET yours", "--dataset %q is not NAME=ASSET", d)
					}
					if err := slot("datasets/"+name, named); err != nil {
						return err
					}
				}
				for _, q := range all {
					if _, err := s.computations.Supply(ctx, q); err != nil {
						return s.explain("supplying "+supplied(q), err)
					}
				}
				v, err := s.view(ctx, c.ID)
				if err != nil {
					return err
				}
				return a.showComputation(v.GetComputation())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "your `KEY` in this computation, by name or fingerprint")
	f.StringVar(&algorithm, "algorithm", "", "your `ASSET` that is the algorithm, by name or id")
	f.StringArrayVar(&datasets, "dataset", nil, "your asset for a dataset, `NAME=ASSET` (repeatable)")
	return cmd
}

func supplied(q *computationsv1.SupplyRequest) string {
	if q.GetKeyId() != "" {
		return "the key"
	}
	return q.GetSlot()
}

// fingerprint of a key in DER; empty for none, or one that can't be read.
func fingerprint(spki []byte) string {
	k, err := keys.ParsePublic(spki)
	if err != nil {
		return ""
	}
	return k.Fingerprint()
}

var errNotFrozen = errors.New("the computation is a draft: it has no manifest yet")
