package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// manager is a host's stream, played by the test.
type manager struct {
	*host
	stream grpc.BidiStreamingClient[managerv1.ConnectRequest, managerv1.ConnectResponse]
	cut    func()

	mu      sync.Mutex
	changed chan struct{}
	got     []*managerv1.ConnectResponse
	err     error
}

// connect opens a stream and greets.
func (h *host) connect(p *process) *manager {
	h.w.t.Helper()
	m, err := h.tryConnect(p)
	if err != nil {
		h.w.t.Fatal(err)
	}
	return m
}

func (h *host) tryConnect(p *process) (*manager, error) {
	h.w.t.Helper()
	conn := h.w.dial(p, h.cert)
	ctx, cancel := context.WithCancel(h.w.ctx)
	h.w.t.Cleanup(cancel)
	stream, err := managerv1.NewComputationsServiceClient(conn).Connect(ctx)
	if err != nil {
		return nil, err
	}
	m := &manager{host: h, stream: stream, cut: func() { cancel(); conn.Close() }, changed: make(chan struct{})}
	if err := stream.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Hello{Hello: h.hello}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if first.GetWelcome().GetProtocolVersion() != 1 || first.GetWelcome().GetStatusSeconds() == 0 {
		return nil, fmt.Errorf("the first message is %v", first)
	}
	go m.read()
	return m, nil
}

func (m *manager) read() {
	for {
		in, err := m.stream.Recv()
		m.mu.Lock()
		if err != nil {
			m.err = err
		} else {
			m.got = append(m.got, in)
		}
		close(m.changed)
		m.changed = make(chan struct{})
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// wait waits until a message fits.
func (m *manager) wait(what string, fits func(*managerv1.ConnectResponse) bool) *managerv1.ConnectResponse {
	m.w.t.Helper()
	for {
		m.mu.Lock()
		i := slices.IndexFunc(m.got, fits)
		changed, err := m.changed, m.err
		if i >= 0 {
			defer m.mu.Unlock()
			return m.got[i]
		}
		m.mu.Unlock()
		if err != nil {
			m.w.t.Fatalf("waiting for %s: %v", what, err)
		}
		select {
		case <-changed:
		case <-m.w.ctx.Done():
			m.w.t.Fatalf("%s did not come", what)
		}
	}
}

// ended waits for the stream's end.
func (m *manager) ended() error {
	m.w.t.Helper()
	for {
		m.mu.Lock()
		changed, err := m.changed, m.err
		m.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-m.w.ctx.Done():
			m.w.t.Fatal("the stream does not end")
		}
	}
}

// count counts the messages so far that fit.
func (m *manager) count(fits func(*managerv1.ConnectResponse) bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, in := range m.got {
		if fits(in) {
			n++
		}
	}
	return n
}

func asks(run computations.ID) func(*managerv1.ConnectResponse) bool {
	return func(m *managerv1.ConnectResponse) bool { return m.GetRunRequest().GetRunId() == string(run) }
}

func stops(run computations.ID) func(*managerv1.ConnectResponse) bool {
	return func(m *managerv1.ConnectResponse) bool { return m.GetStopRequest().GetRunId() == string(run) }
}

func acks(run computations.ID, source eventv1.Source, sequence uint64) func(*managerv1.ConnectResponse) bool {
	return func(m *managerv1.ConnectResponse) bool {
		a := m.GetEventAck()
		return a.GetRunId() == string(run) && a.GetSource() == source && a.GetSequence() == sequence
	}
}

func (m *manager) request(run computations.ID) *managerv1.RunRequest {
	m.w.t.Helper()
	return m.wait("the request for run "+string(run), asks(run)).GetRunRequest()
}

func (m *manager) say(in *managerv1.ConnectRequest) {
	m.w.t.Helper()
	if err := m.stream.Send(in); err != nil {
		m.w.t.Fatalf("%v; the stream: %v", err, m.ended())
	}
}

func (m *manager) accept(run computations.ID) {
	m.w.t.Helper()
	m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_RunReply{RunReply: &managerv1.RunReply{RunId: string(run), AgentHostPort: 6100}}})
}

func (m *manager) refuse(run computations.ID, reason, field string) {
	m.w.t.Helper()
	m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_RunReply{RunReply: &managerv1.RunReply{RunId: string(run), Refusal: refusalOf(reason, field)}}})
}

func refusalOf(reason, field string) *managerv1.Refusal {
	return &managerv1.Refusal{Faults: []*managerv1.Fault{{Reason: reason, Field: field, Message: "says no"}}}
}

// agentKey and otherKey have the form of an agent's key.
var agentKey, otherKey = "sha256:" + strings.Repeat("0a", 32), "sha256:" + strings.Repeat("bb", 32)

const (
	agent    = eventv1.Source_SOURCE_AGENT
	shim     = eventv1.Source_SOURCE_SHIM
	managers = eventv1.Source_SOURCE_MANAGER
)

func event(run computations.ID, source eventv1.Source, sequence uint64, kind string, attributes ...string) *eventv1.Event {
	e := &eventv1.Event{RunId: string(run), Source: source, Sequence: sequence, Time: timestamppb.Now(), Kind: kind, Message: kind, Attributes: map[string]string{}}
	for i := 0; i+1 < len(attributes); i += 2 {
		e.Attributes[attributes[i]] = attributes[i+1]
	}
	return e
}

func (m *manager) tell(e *eventv1.Event) {
	m.w.t.Helper()
	m.say(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Event{Event: e}})
}

// told tells, and waits for the acknowledgement.
func (m *manager) told(e *eventv1.Event) {
	m.w.t.Helper()
	m.tell(e)
	m.wait(fmt.Sprintf("the acknowledgement of %v", e), acks(computations.ID(e.GetRunId()), e.GetSource(), e.GetSequence()))
}

// live takes a run up to where its agent serves.
func (m *manager) live(run computations.ID) {
	m.w.t.Helper()
	m.request(run)
	m.accept(run)
	m.told(event(run, managers, 1, vm.EventAccepted, "agent_port", "6100"))
	m.told(event(run, shim, 1, vm.EventStarting, "simulated", "true"))
	m.told(event(run, agent, 1, vm.EventReady, "agent_key", agentKey))
}
