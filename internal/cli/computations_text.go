package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/manifest"
)

// draftInfo is a draft with addresses in place of ids.
type draftInfo struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	TEE         string        `json:"tee"`
	AttestedTLS bool          `json:"attested_tls"`
	Algorithm   algorithmSlot `json:"algorithm"`
	Datasets    []datasetSlot `json:"datasets"`
	Consumers   []string      `json:"consumers"`
	Approvers   []string      `json:"approvers"`
	ResultMax   int64         `json:"result_max,omitempty"`
	// Release says who gets what; empty: each consumer gets everything.
	Release        []releaseSlot `json:"release,omitempty"`
	Pad            bool          `json:"pad,omitempty"`
	OperatorOutput bool          `json:"operator_output,omitempty"`
	// Scratch is "always", "never", or empty, where ScratchBytes may be a size.
	Scratch      string `json:"scratch,omitempty"`
	ScratchBytes int64  `json:"scratch_bytes,omitempty"`
	Image        string `json:"image,omitempty"`
	TTL          string `json:"ttl,omitempty"`
}

type algorithmSlot struct {
	Provider string            `json:"provider,omitempty"`
	Asset    string            `json:"asset_id,omitempty"`
	Args     []string          `json:"args,omitempty"`
	Env      map[string]string `json:"env,omitempty"`
	Limits   map[string]int64  `json:"limits,omitempty"`
}

type datasetSlot struct {
	Name     string `json:"name"`
	Provider string `json:"provider,omitempty"`
	Asset    string `json:"asset_id,omitempty"`
}

type releaseSlot struct {
	Consumer string   `json:"consumer"`
	Files    []string `json:"files,omitempty"`
	Output   bool     `json:"output,omitempty"`
}

// draftInfo names people as the parties and the workspace's members do.
func (s *service) draftInfo(ctx context.Context, workspace string, r *computationsv1.GetComputationResponse) (draftInfo, error) {
	emails := map[string]string{}
	for _, p := range r.GetParties() {
		emails[p.GetUserId()] = p.GetEmail()
	}
	m := r.GetDraft()
	ids := append(append([]string{m.GetAlgorithm().GetProviderId()}, m.GetConsumerIds()...), m.GetApproverIds()...)
	for _, d := range m.GetDatasets() {
		ids = append(ids, d.GetProviderId())
	}
	for _, r := range m.GetRelease() {
		ids = append(ids, r.GetConsumerId())
	}
	if slices.ContainsFunc(ids, func(id string) bool { return id != "" && emails[id] == "" }) {
		members, err := s.members(ctx, workspace)
		if err != nil {
			return draftInfo{}, err
		}
		for _, m := range members {
			emails[m.User] = m.Email
		}
	}
	email := func(id string) string {
		if e := emails[id]; e != "" || id == "" {
			return e
		}
		return id // somebody who left
	}
	l := m.GetAlgorithm().GetLimits()
	limits := map[string]int64{
		"memory_bytes": l.GetMemoryBytes(), "processes": l.GetProcesses(), "seconds": l.GetSeconds(), "output_bytes": l.GetOutputBytes(),
		"cpu_milli": l.GetCpuMilli(),
	}
	maps.DeleteFunc(limits, func(_ string, n int64) bool { return n == 0 })
	d := draftInfo{
		Name: m.GetName(), Description: m.GetDescription(), TEE: m.GetTee(), AttestedTLS: m.GetAttestedTls(),
		Algorithm: algorithmSlot{
			Provider: email(m.GetAlgorithm().GetProviderId()), Asset: m.GetAlgorithm().GetAssetId(),
			Args: m.GetAlgorithm().GetArgs(), Env: m.GetAlgorithm().GetEnv(), Limits: limits,
		},
		Datasets: []datasetSlot{}, Consumers: each(m.GetConsumerIds(), email), Approvers: each(m.GetApproverIds(), email),
		ResultMax: m.GetResultMax(), Pad: m.GetPad(), OperatorOutput: m.GetOperatorOutput(), Image: m.GetImage(),
		Scratch: m.GetScratch(), ScratchBytes: m.GetScratchBytes(),
	}
	for _, r := range m.GetRelease() {
		d.Release = append(d.Release, releaseSlot{email(r.GetConsumerId()), r.GetFiles(), r.GetOutput()})
	}
	for _, slot := range m.GetDatasets() {
		d.Datasets = append(d.Datasets, datasetSlot{slot.GetName(), email(slot.GetProviderId()), slot.GetAssetId()})
	}
	if t := m.GetTtl(); t != nil {
		d.TTL = t.AsDuration().String()
	}
	return d, nil
}

// rows says in plain words what a draft asks for.
func (d *draftInfo) rows(r *rows) {
	kept := d.TEE
	if d.AttestedTLS {
		kept += ", attested TLS"
	}
	r.add("tee", "%s", kept)
	if d.Description != "" {
		r.add("description", "%s", packed(d.Description))
	}
	by := func(provider, asset string) string {
		if provider == "" {
			return "nobody brings it yet"
		}
		if asset == "" {
			return "by " + provider + ", not described yet"
		}
		return "by " + provider + ", asset " + asset
	}
	r.add("algorithm", "%s", by(d.Algorithm.Provider, d.Algorithm.Asset))
	if len(d.Algorithm.Args) > 0 {
		r.add("arguments", "%q", d.Algorithm.Args)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Algorithm.Env)) {
		r.add("variable", "%s=%q", name, d.Algorithm.Env[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.Algorithm.Limits)) {
		r.add("limit", "%s: %d", name, d.Algorithm.Limits[name])
	}
	if d.ResultMax > 0 {
		r.add("limit", "result: %s", bytesize.Round(d.ResultMax))
	}
	for _, slot := range d.Datasets {
		r.add("dataset", "%s, %s", slot.Name, by(slot.Provider, slot.Asset))
	}
	for _, c := range d.Consumers {
		r.add("consumer", "%s", c)
		if i := slices.IndexFunc(d.Release, func(s releaseSlot) bool { return s.Consumer == c }); i >= 0 {
			r.add("", "%s", released(manifest.Release{Files: d.Release[i].Files, Output: d.Release[i].Output}))
		} else if len(d.Release) > 0 {
			r.add("", "is not yet said to get anything")
		}
	}
	if d.Pad {
		r.add("output", "padded to one size")
	}
	if d.OperatorOutput {
		r.add("output", "what it prints goes to the host's OPERATOR, too")
	}
	for _, c := range d.Approvers {
		r.add("approver", "%s", c)
	}
	if d.Image != "" {
		r.add("image", "%s", d.Image)
	}
	if d.TTL != "" {
		r.add("life", "at most %s", d.TTL)
	}
}

// runView is a run as the service tells it.
type runView struct {
	ID           string     `json:"id"`
	Computation  string     `json:"computation_id"`
	Number       int64      `json:"number"`
	State        string     `json:"state"`
	Reason       string     `json:"reason,omitempty"`
	Host         string     `json:"host_id,omitempty"`
	AgentAddress string     `json:"agent_address,omitempty"`
	AgentKey     string     `json:"agent_key,omitempty"`
	AgentState   string     `json:"agent_state,omitempty"`
	Simulated    bool       `json:"simulated"`
	StopAsked    *time.Time `json:"stop_asked,omitempty"`
	Created      *time.Time `json:"created"`
	Started      *time.Time `json:"started,omitempty"`
	Ended        *time.Time `json:"ended,omitempty"`
}

func infoOfServiceRun(r *computationsv1.Run) runView {
	return runView{
		ID: r.GetId(), Computation: r.GetComputationId(), Number: r.GetNumber(), State: r.GetState(), Reason: r.GetReason(), Host: r.GetHostId(),
		AgentAddress: r.GetAgentAddress(), AgentKey: r.GetAgentKey(), AgentState: r.GetAgentState(), Simulated: r.GetSimulated(),
		StopAsked: moment(r.GetStopAsked()), Created: moment(r.GetCreated()), Started: moment(r.GetStarted()), Ended: moment(r.GetEnded()),
	}
}

// ended tells whether nothing more happens.
func (r *runView) ended() bool {
	return r.State == "finished" || r.State == "failed" || r.State == "stopped"
}

// line is a run in one line.
func (r *runView) line() string {
	s := fmt.Sprintf("%d %s", r.Number, r.State)
	if r.Reason != "" {
		s += " (" + r.Reason + ")"
	}
	if r.AgentState != "" {
		s += ", agent " + r.AgentState
	}
	if r.AgentAddress != "" && !r.ended() {
		s += " at " + r.AgentAddress
	}
	if r.Simulated {
		s += ", SIMULATED"
	}
	return s + ", " + r.ID
}
