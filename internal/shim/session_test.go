package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func helloMessage(version uint32) *guestv1.SessionRequest {
	return &guestv1.SessionRequest{Message: &guestv1.SessionRequest_Hello{Hello: &guestv1.Hello{ProtocolVersion: version}}}
}

func eventMessage(change func(*eventv1.Event)) *guestv1.SessionRequest {
	e := agentEvent(2)
	change(e)
	return &guestv1.SessionRequest{Message: &guestv1.SessionRequest_Event{Event: e}}
}

// What a guest must not send ends its session, with a reason, and nothing else.
func TestSessionRefusals(t *testing.T) {
	dir, _ := newVM(t, "")
	f := startShim(t, dir, nil).follow()
	g, _ := dialGuest(t, dir)
	g.event(1)
	g.acked(1)
	hello := helloMessage(1)
	for name, c := range map[string]struct {
		messages []*guestv1.SessionRequest
		code     codes.Code
		want     string
	}{
		"no hello":          {[]*guestv1.SessionRequest{eventMessage(func(*eventv1.Event) {})}, codes.InvalidArgument, "hello"},
		"nothing at first":  {[]*guestv1.SessionRequest{{}}, codes.InvalidArgument, "hello"},
		"version 0":         {[]*guestv1.SessionRequest{helloMessage(0)}, codes.FailedPrecondition, "version 0"},
		"version 2":         {[]*guestv1.SessionRequest{helloMessage(2)}, codes.FailedPrecondition, "version 2"},
		"two hellos":        {[]*guestv1.SessionRequest{hello, hello}, codes.InvalidArgument, "once"},
		"an empty message":  {[]*guestv1.SessionRequest{hello, {}}, codes.InvalidArgument, "unknown"},
		"another run":       {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.RunId = "" })}, codes.InvalidArgument, "run_id"},
		"as the shim":       {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Source = eventv1.Source_SOURCE_SHIM })}, codes.InvalidArgument, "source"},
		"sequence 0":        {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Sequence = 0 })}, codes.InvalidArgument, "sequence"},
		"a gap":             {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Sequence = 3 })}, codes.InvalidArgument, "sequence"},
		"the host's kind":   {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Kind = vm.EventExited })}, codes.InvalidArgument, "host"},
		"the Manager's":     {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Kind = vm.EventAccepted })}, codes.InvalidArgument, "host"},
		"no kind":           {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Kind = "" })}, codes.InvalidArgument, "kind"},
		"a kind with lines": {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Kind = "agent.ready\nx" })}, codes.InvalidArgument, "kind"},
		"a long kind":       {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Kind = "a." + strings.Repeat("b", 70) })}, codes.InvalidArgument, "kind"},
		"no such time":      {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Time = &timestamppb.Timestamp{Nanos: -1} })}, codes.InvalidArgument, "time"},
		"a large event":     {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Message = strings.Repeat("x", maxEvent) })}, codes.InvalidArgument, "bytes"},
		"a huge message":    {[]*guestv1.SessionRequest{hello, eventMessage(func(e *eventv1.Event) { e.Message = strings.Repeat("x", maxRequest) })}, codes.ResourceExhausted, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bad := openSession(t, dir)
			for _, m := range c.messages {
				_ = bad.stream.Send(m) // may end at once
			}
			var err error
			for err == nil {
				_, err = bad.stream.Recv()
			}
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %v with %q", err, c.code, c.want)
			}
		})
	}
	// Right in everything, the same event is taken.
	good, _ := dialGuest(t, dir)
	good.event(2)
	good.acked(2)
	if e := f.until(vm.EventState); e.GetSequence() != 1 {
		t.Errorf("got %v", e)
	}
	if e := f.until(vm.EventState); !proto.Equal(e, agentEvent(2)) {
		t.Errorf("got %v", e)
	}
}

func TestReconnect(t *testing.T) {
	dir, spec := newVM(t, "")
	key, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	spec.Approvals = []manifest.Approval{{PublicKey: key.Public(), Signature: []byte("signature")}}
	spec.Agent.ServerKey = []byte("a key")
	writeSpec(t, dir, spec)
	f := startShim(t, dir, nil).follow()
	g, first := dialGuest(t, dir)
	if a := first.GetApprovals(); len(a) != 1 || string(a[0].GetSignature()) != "signature" || string(a[0].GetPublicKey()) != string(key.Public().SPKI()) {
		t.Errorf("approvals are %v", a)
	}
	g.event(1)
	g.event(2)
	g.acked(2)
	again, second := dialGuest(t, dir)
	if !proto.Equal(first, second) {
		t.Errorf("the second launch differs: %v", second)
	}
	for err = nil; err == nil; _, err = g.stream.Recv() {
	}
	if status.Code(err) != codes.Aborted {
		t.Errorf("the first session ended with %v", err)
	}
	// An agent that missed the acknowledgement sends again.
	for n := uint64(1); n <= 3; n++ {
		again.event(n)
	}
	var acks []uint64
	for len(acks) == 0 || acks[len(acks)-1] < 3 {
		acks = append(acks, again.next().GetEventAck().GetSequence())
	}
	if !slices.IsSorted(acks) {
		t.Errorf("acknowledged %v", acks)
	}
	for n := range uint64(3) {
		if e := f.until(vm.EventState); e.GetSequence() != n+1 {
			t.Errorf("event %d is %v", n+1, e)
		}
	}
	// A connection that breaks altogether.
	_ = again.conn.Close()
	third, _ := dialGuest(t, dir)
	third.event(4)
	third.acked(4)
	if e := f.until(vm.EventState); e.GetSequence() != 4 {
		t.Errorf("got %v", e)
	}
}

// A full spool holds the agent up until the Manager has acknowledged.
// A guest that dials again and again does not fill the host's disk with lines.
func TestManyDialsAreFewLines(t *testing.T) {
	dir, _ := newVM(t, "")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := startShim(t, dir, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	s.follow().until(vm.EventBooting)
	client := guestv1.NewGuestServiceClient(dialUnix(t, guestSocket(dir, vm.SessionPort)))
	for range 5 * maxDialLines {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		stream, err := client.Session(ctx)
		if err == nil {
			err = stream.Send(helloMessage(1))
		}
		if err == nil {
			_, err = stream.Recv() // the launch
		}
		if err == nil {
			err = stream.CloseSend()
		}
		if err == nil {
			if _, err = stream.Recv(); errors.Is(err, io.EOF) {
				err = nil
			}
		}
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "the agent dialled"); n != maxDialLines {
		t.Errorf("%d lines of %d sessions", n, 5*maxDialLines)
	}
}

func TestFullSpoolHoldsTheAgent(t *testing.T) {
	sp, err := spool.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	in := &intake{spool: sp, logs: newLogRing(1, 1), runID: testRun, maxSpool: 9 << 20, arrived: make(chan struct{}, 1)}
	big := func(n uint64) *eventv1.Event {
		e := agentEvent(n)
		e.Message = strings.Repeat("x", 60<<10)
		return e
	}
	next := uint64(1)
	for ; sp.Size() <= in.maxSpool; next++ {
		if err := in.event(t.Context(), big(next)); err != nil {
			t.Fatal(err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.event(cancelled, big(next)); err == nil {
		t.Fatal("a full spool took an event")
	}
	if err := sp.Sync(); err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	go func() { taken <- in.event(t.Context(), big(next)) }()
	if err := sp.Ack(events.Agent, next-1); err != nil {
		t.Fatal(err)
	}
	if err := sp.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	if in.last() != next {
		t.Errorf("the last one is %d", in.last())
	}
}

func TestManyEvents(t *testing.T) {
	dir, _ := newVM(t, "")
	f := startShim(t, dir, nil).follow()
	g, _ := dialGuest(t, dir)
	const n = 2000
	go func() {
		for i := range uint64(n) {
			if g.stream.Send(&guestv1.SessionRequest{Message: &guestv1.SessionRequest_Event{Event: agentEvent(i + 1)}}) != nil {
				return
			}
		}
	}()
	acked := make(chan error, 1)
	go func() {
		for {
			m, err := g.stream.Recv()
			if err != nil || m.GetEventAck().GetSequence() == n {
				acked <- err
				return
			}
		}
	}()
	for i := range uint64(n) {
		if e := f.until(vm.EventState); e.GetSequence() != i+1 {
			t.Fatalf("event %d is %v", i+1, e)
		}
	}
	if err := <-acked; err != nil {
		t.Fatal(err)
	}
}

func TestAgentLogs(t *testing.T) {
	dir, _ := newVM(t, "")
	f := startShim(t, dir, nil).follow()
	g, _ := dialGuest(t, dir)
	g.send(&guestv1.SessionRequest{Message: &guestv1.SessionRequest_Log{Log: &eventv1.Log{
		RunId: "another", Source: eventv1.Source_SOURCE_MANAGER, Level: 77, Dropped: 5,
		Time:    &timestamppb.Timestamp{Nanos: -5},
		Message: "a\nlevel=ERROR msg=forged \x1b[2J\x1b]0;title\x07" + strings.Repeat("long", maxMessage),
	}}})
	for {
		l := f.next().GetLog()
		if l == nil || l.GetSource() == eventv1.Source_SOURCE_SHIM {
			continue
		}
		if l.GetRunId() != testRun || l.GetSource() != eventv1.Source_SOURCE_AGENT || l.GetLevel() != 0 || l.GetTime() != nil ||
			l.GetDropped() != 5 || len(l.GetMessage()) > maxMessage || !strings.HasPrefix(l.GetMessage(), "a level=ERROR msg=forged ") ||
			strings.ContainsAny(l.GetMessage(), "\n\x1b\x07") {
			t.Errorf("the line arrives as %.200q, %v", l.GetMessage(), l)
		}
		return
	}
}

func TestLogRing(t *testing.T) {
	line := func(n int) *eventv1.Log { return &eventv1.Log{Message: fmt.Sprintf("%04d", n)} }
	t.Run("lines", func(t *testing.T) {
		r := newLogRing(3, 1<<20)
		for n := range 10 {
			r.add(line(n))
		}
		l, _ := r.take()
		if l.GetMessage() != "0007" || l.GetDropped() != 7 {
			t.Errorf("got %v", l)
		}
		r.add(line(10))
		for _, want := range []string{"0008", "0009", "0010"} {
			if l, _ := r.take(); l.GetMessage() != want || l.GetDropped() != 0 {
				t.Errorf("got %v, want %s", l, want)
			}
		}
		l, changed := r.take()
		if l != nil {
			t.Errorf("got %v from an empty ring", l)
		}
		r.add(line(11))
		select {
		case <-changed:
		default:
			t.Error("nobody was woken")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		r := newLogRing(100, 2*(lineCost+4))
		for n := range 5 {
			l := line(n)
			l.Dropped = uint64(n)
			r.add(l)
		}
		// 0, 1 and 2 went, with the three that they counted; 3 counts its own.
		if l, _ := r.take(); l.GetMessage() != "0003" || l.GetDropped() != 3+3+3 {
			t.Errorf("got %v", l)
		}
	})
	t.Run("one line is always kept", func(t *testing.T) {
		r := newLogRing(100, 1)
		r.add(line(1))
		if l, _ := r.take(); l == nil {
			t.Error("a long line is lost")
		}
	})
	t.Run("rate", func(t *testing.T) {
		r := newLogRing(1<<20, 1<<30)
		now := time.Unix(1000, 0)
		for n := range logBurst + 5 {
			r.limited(line(n), now)
		}
		r.limited(line(0), now.Add(-time.Hour)) // clocks jump
		for n := range logRate + 7 {
			r.limited(line(n), now.Add(-time.Hour+time.Second))
		}
		if len(r.lines) != logBurst+logRate || r.dropped != 5+1+7 {
			t.Errorf("%d lines, %d dropped", len(r.lines), r.dropped)
		}
	})
}

func FuzzGuestMessage(f *testing.F) {
	for _, m := range []*guestv1.SessionRequest{helloMessage(1), eventMessage(func(*eventv1.Event) {}), {Message: &guestv1.SessionRequest_Log{Log: &eventv1.Log{Message: "\x1b[1m"}}}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(guestv1.SessionRequest)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		if l := m.GetLog(); l != nil {
			if out := agentLog(testRun, l); len(out.GetMessage()) > maxMessage || strings.ContainsFunc(out.GetMessage(), func(r rune) bool { return r < 0x20 }) {
				t.Errorf("%q", out.GetMessage())
			}
		}
		if e := m.GetEvent(); e != nil && checkEvent(testRun, e) == nil {
			payload, err := events.Encode(fromProto(e))
			if err != nil || len(payload) > spool.MaxPayload {
				t.Fatalf("%d bytes, %v", len(payload), err)
			}
			back, err := events.Decode(spool.Record{Source: events.Agent, Sequence: e.GetSequence(), Payload: payload})
			if err != nil {
				t.Fatal(err)
			}
			if out := toProto(testRun, back); out.GetMessage() != e.GetMessage() || len(out.GetAttributes()) != len(e.GetAttributes()) {
				t.Fatalf("%v became %v", e, out)
			}
		}
	})
}
