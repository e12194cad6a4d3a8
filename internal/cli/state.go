package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/manifest"
)

// States of a computation that the CLI acts on.
const (
	stateAwaiting = "AwaitingInputs"
	stateRunning  = "Running"
	stateReady    = "ResultReady"
	stateReleased = "Released"
	stateFailed   = "Failed"
	stateStopped  = "Stopped"
)

// stateInfo is what state prints as JSON.
type stateInfo struct {
	State    string          `json:"state"`
	Reason   string          `json:"reason,omitempty"`
	Limit    string          `json:"limit,omitempty"`
	Manifest manifest.Digest `json:"manifest_digest"`
	Inputs   []inputInfo     `json:"inputs"`
	Result   *resultInfo     `json:"result,omitempty"`
}

type inputInfo struct {
	Kind     string `json:"kind"`
	Name     string `json:"name,omitempty"`
	Received int64  `json:"received"`
	Size     int64  `json:"size"`
	Complete bool   `json:"complete"`
	// Pulling: the agent is taking it from its source; Problem: why it does not, or
	// has to try again.
	Pulling bool   `json:"pulling,omitempty"`
	Problem string `json:"problem,omitempty"`
}

type resultInfo struct {
	Size   int64           `json:"size"`
	SHA256 manifest.Digest `json:"sha256"`
}

func (a *app) stateCmd() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Show what the computation waits for, or how it ended",
		Example: `  cocos-cli state --agent 127.0.0.1:7020 --agent-key sha256:… \
    --key alice.pem --manifest manifest.json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, id, err := a.connectAs(cmd, role)
			if err != nil {
				return err
			}
			defer p.close()
			s, err := p.state(cmd.Context(), id)
			if err != nil {
				return err
			}
			return a.out.result(s, "%s", s.text())
		},
	}
	a.agentFlags(cmd)
	a.cachedFlag(cmd)
	a.roleFlag(cmd, &role)
	return cmd
}

// connectAs is for the commands that every role may give.
func (a *app) connectAs(cmd *cobra.Command, role string) (*peer, *identity, error) {
	id, err := a.digestIdentity()
	if err != nil {
		return nil, nil, err
	}
	r, err := id.anyRole(role)
	if err != nil {
		return nil, nil, err
	}
	p, err := a.connect(cmd, id, r)
	return p, id, err
}

// state asks once, and refuses an agent of another computation.
func (p *peer) state(ctx context.Context, id *identity) (*stateInfo, error) {
	const doing = "asking for the state"
	ctx, cancel := p.call(ctx)
	defer cancel()
	r, err := p.State(ctx, &agentv1.StateRequest{})
	if err != nil {
		return nil, p.explain(doing, err)
	}
	s := &stateInfo{State: r.GetState(), Reason: r.GetReason(), Limit: r.GetLimit()}
	if s.Manifest, err = digestOf(r.GetManifestDigest()); err != nil {
		return nil, fmt.Errorf("%s: manifest digest: %w", doing, err)
	}
	if s.Manifest != id.digest {
		return nil, advise(fmt.Errorf("%s: the agent enforces the manifest %s, and you approved %s", doing, s.Manifest, id.digest),
			"this is another computation: check --agent and --manifest, and send it nothing")
	}
	for _, in := range r.GetInputs() {
		i := inputInfo{Kind: kindOfInput(in.GetInput()), Name: in.GetInput().GetName(),
			Received: int64(in.GetReceived()), Size: int64(in.GetSize()), Complete: in.GetComplete(),
			Pulling: in.GetPulling(), Problem: in.GetProblem()}
		s.Inputs = append(s.Inputs, i)
	}
	if info := r.GetResult(); info != nil {
		if s.Result, err = resultOf(info); err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
	}
	return s, nil
}

// kindOfInput is the word for it in texts and JSON.
func kindOfInput(ref *agentv1.InputRef) string {
	switch ref.GetKind() {
	case agentv1.InputKind_INPUT_KIND_DATASET:
		return "dataset"
	case agentv1.InputKind_INPUT_KIND_FILE:
		return "file"
	default:
		return "algorithm"
	}
}

func resultOf(info *agentv1.ResultInfo) (*resultInfo, error) {
	d, err := digestOf(info.GetSha256())
	if err != nil {
		return nil, fmt.Errorf("result digest: %w", err)
	}
	if info.GetSize() > manifest.MaxInputSize {
		return nil, fmt.Errorf("result size: %d bytes is more than any result may have", info.GetSize())
	}
	return &resultInfo{Size: int64(info.GetSize()), SHA256: d}, nil
}

func digestOf(b []byte) (d manifest.Digest, err error) {
	if len(b) != len(d) {
		return d, fmt.Errorf("the agent sent %d bytes (%s); expected %d", len(b), hex.EncodeToString(b[:min(len(b), 40)]), len(d))
	}
	return manifest.Digest(b), nil
}

func (s *stateInfo) text() string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-10s %s\n", name, clean(value)) }
	state := s.State
	if s.Reason != "" {
		state += ": " + s.Reason
	}
	if s.Limit != "" {
		state += ", limit " + s.Limit
	}
	line("state", state)
	line("manifest", s.Manifest.String())
	for _, in := range s.Inputs {
		line(in.Kind, strings.TrimSpace(in.Name+" "+in.progress()))
		if in.Problem != "" {
			line("", in.Problem)
		}
	}
	if s.Result != nil {
		line("result", fmt.Sprintf("%s, sha256 %s", bytesize.Round(s.Result.Size), s.Result.SHA256))
	}
	return b.String()
}

func (in *inputInfo) progress() string {
	switch {
	case in.Complete:
		return fmt.Sprintf("(%s, verified)", bytesize.Round(in.Size))
	case in.Pulling:
		return fmt.Sprintf("(%s of %s, taken from its source)", bytesize.Round(in.Received), bytesize.Round(in.Size))
	case in.Received > 0:
		return fmt.Sprintf("(%s of %s)", bytesize.Round(in.Received), bytesize.Round(in.Size))
	}
	return fmt.Sprintf("(%s, awaited)", bytesize.Round(in.Size))
}

// awaited lists the inputs that are not there yet.
func (s *stateInfo) awaited() string {
	var names []string
	for _, in := range s.Inputs {
		if !in.Complete {
			names = append(names, strings.TrimSpace(in.Kind+" "+in.Name))
		}
	}
	return strings.Join(names, ", ")
}
