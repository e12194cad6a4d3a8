package userapi

import (
	"maps"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// draftOf is the draft of a request.
func draftOf(m *computationsv1.Draft) (d computations.Draft, err error) {
	if m == nil {
		return d, invalid("draft", "is missing")
	}
	alg, limits := m.GetAlgorithm(), m.GetAlgorithm().GetLimits()
	d = computations.Draft{
		Name: m.GetName(), Description: m.GetDescription(), TEE: manifest.TEE(m.GetTee()), AttestedTLS: m.GetAttestedTls(),
		Algorithm: computations.AlgorithmSlot{
			Provider: computations.ID(alg.GetProviderId()), Asset: computations.ID(alg.GetAssetId()),
			Args: alg.GetArgs(), Env: maps.Clone(alg.GetEnv()),
			Limits: manifest.Limits{
				MemoryBytes: limits.GetMemoryBytes(), Processes: limits.GetProcesses(),
				Seconds: limits.GetSeconds(), OutputBytes: limits.GetOutputBytes(),
				CPUMilli: limits.GetCpuMilli(),
			},
		},
		Consumers: words[computations.ID](m.GetConsumerIds()),
		Outputs:   manifest.Outputs{ResultMax: m.GetResultMax(), Pad: m.GetPad(), OperatorOutput: m.GetOperatorOutput()},
		Approvers: words[computations.ID](m.GetApproverIds()),
		Scratch:   computations.Scratch(m.GetScratch()), ScratchBytes: m.GetScratchBytes(),
		Image: m.GetImage(),
	}
	for _, s := range m.GetDatasets() {
		d.Datasets = append(d.Datasets, computations.DatasetSlot{
			Name: s.GetName(), Provider: computations.ID(s.GetProviderId()), Asset: computations.ID(s.GetAssetId()),
		})
	}
	for _, r := range m.GetRelease() {
		d.Release = append(d.Release, computations.ReleaseSlot{Consumer: computations.ID(r.GetConsumerId()), Files: r.GetFiles(), Output: r.GetOutput()})
	}
	for user, key := range m.GetKeys() {
		if d.Keys == nil {
			d.Keys = map[computations.ID]computations.ID{}
		}
		d.Keys[computations.ID(user)] = computations.ID(key)
	}
	d.TTL, err = length("draft/ttl", m.GetTtl())
	return d, err
}

func draft(d *computations.Draft) *computationsv1.Draft {
	m := &computationsv1.Draft{
		Name: d.Name, Description: d.Description, Tee: string(d.TEE), AttestedTls: d.AttestedTLS,
		Algorithm: &computationsv1.AlgorithmSlot{
			ProviderId: string(d.Algorithm.Provider), AssetId: string(d.Algorithm.Asset),
			Args: d.Algorithm.Args, Env: maps.Clone(d.Algorithm.Env),
			Limits: &computationsv1.Limits{
				MemoryBytes: d.Algorithm.Limits.MemoryBytes, Processes: d.Algorithm.Limits.Processes,
				Seconds: d.Algorithm.Limits.Seconds, OutputBytes: d.Algorithm.Limits.OutputBytes,
				CpuMilli: d.Algorithm.Limits.CPUMilli,
			},
		},
		ConsumerIds: texts(d.Consumers), ResultMax: d.Outputs.ResultMax, Pad: d.Outputs.Pad, OperatorOutput: d.Outputs.OperatorOutput, ApproverIds: texts(d.Approvers),
		Keys: map[string]string{}, Image: d.Image, Ttl: span(d.TTL), Scratch: string(d.Scratch), ScratchBytes: d.ScratchBytes,
	}
	for _, s := range d.Datasets {
		m.Datasets = append(m.Datasets, &computationsv1.DatasetSlot{Name: s.Name, ProviderId: string(s.Provider), AssetId: string(s.Asset)})
	}
	for _, r := range d.Release {
		m.Release = append(m.Release, &computationsv1.Release{ConsumerId: string(r.Consumer), Files: r.Files, Output: r.Output})
	}
	for user, key := range d.Keys {
		m.Keys[string(user)] = string(key)
	}
	return m
}
