package shim

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// launchOf is what every session begins with.
func launchOf(spec vm.Spec) *guestv1.Launch {
	l := &guestv1.Launch{
		RunId:    spec.RunID,
		Manifest: spec.Manifest,
		Config: &guestv1.AgentConfig{
			Port:          uint32(spec.Agent.Port),
			LogLevel:      spec.Agent.LogLevel,
			ServerCert:    spec.Agent.ServerCert,
			ServerKey:     spec.Agent.ServerKey,
			ClientCaCerts: spec.Agent.ClientCACerts,
		},
		Network: &guestv1.Network{},
	}
	if a := spec.Agent; a.Address.IsValid() && a.Gateway.IsValid() {
		l.Network.Address, l.Network.Gateway = a.Address.String(), a.Gateway.String()
	}
	for _, a := range spec.Approvals {
		l.Approvals = append(l.Approvals, &guestv1.Approval{PublicKey: a.PublicKey.SPKI(), Signature: a.Signature})
	}
	return l
}

func fromProto(e *eventv1.Event) events.Event {
	out := events.Event{Kind: e.GetKind(), Message: e.GetMessage(), Attributes: e.GetAttributes()}
	if e.GetTime() != nil {
		out.Time = e.GetTime().AsTime()
	}
	return out
}

func toProto(runID string, e events.Event) *eventv1.Event {
	out := &eventv1.Event{
		RunId: runID, Source: eventv1.Source(e.Source), Sequence: e.Sequence,
		Kind: e.Kind, Message: e.Message, Attributes: e.Attributes,
	}
	if !e.Time.IsZero() {
		out.Time = timestamppb.New(e.Time)
	}
	return out
}

// agentLog is a line of the agent's as the host passes it on: bounded, without
// control characters, and of no other source and run.
func agentLog(runID string, l *eventv1.Log) *eventv1.Log {
	out := &eventv1.Log{
		RunId: runID, Source: eventv1.Source_SOURCE_AGENT, Level: l.GetLevel(),
		Message: telemetry.Clean(l.GetMessage(), maxMessage), Dropped: l.GetDropped(),
	}
	if _, known := eventv1.Level_name[int32(out.Level)]; !known {
		out.Level = eventv1.Level_LEVEL_UNSPECIFIED
	}
	if t := l.GetTime(); t != nil && t.IsValid() {
		out.Time = timestamppb.New(t.AsTime())
	}
	return out
}

// shimLog is a line of the shim's own.
func shimLog(runID string, level eventv1.Level, message string) *eventv1.Log {
	return &eventv1.Log{
		RunId: runID, Source: eventv1.Source_SOURCE_SHIM, Time: timestamppb.New(time.Now()),
		Level: level, Message: telemetry.Clean(message, maxMessage),
	}
}
