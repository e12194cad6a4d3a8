package manager

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/spool/events"
)

// envLines is a file with the agent's log lines, each quoted as in Go.
const envLines = "COCOS_TEST_LINES"

// Watch shows the lines of the file that envLines names, and the spool.
func (s *fakeVM) Watch(q *shimv1.WatchRequest, stream grpc.ServerStreamingServer[shimv1.WatchResponse]) error {
	if q.GetEvents() {
		for reader := s.spool.NewReader(); ; {
			record, ok, err := reader.TryNext()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			e, err := events.Decode(record)
			if err != nil {
				return err
			}
			if err := stream.Send(&shimv1.WatchResponse{Item: &shimv1.WatchResponse_Event{Event: toProto(s.run, e)}}); err != nil {
				return err
			}
		}
	}
	sent, caughtUp := 0, false
	var size int64
	var lines []string
	for {
		if info, err := os.Stat(os.Getenv(envLines)); err == nil && info.Size() != size {
			size, lines = info.Size(), readLines(os.Getenv(envLines))
		}
		if !caughtUp {
			sent = max(0, len(lines)-int(q.GetLines()))
		}
		for ; sent < len(lines); sent++ {
			text, err := strconv.Unquote(lines[sent])
			if err != nil {
				size = 0 // half written
				break
			}
			l := &eventv1.Log{RunId: s.run, Source: eventv1.Source_SOURCE_AGENT, Level: eventv1.Level_LEVEL_INFO, Message: text}
			if err := stream.Send(&shimv1.WatchResponse{Item: &shimv1.WatchResponse_Log{Log: l}}); err != nil {
				return err
			}
		}
		if !caughtUp {
			caughtUp = true
			if err := stream.Send(&shimv1.WatchResponse{Item: &shimv1.WatchResponse_CaughtUp{CaughtUp: &shimv1.CaughtUp{}}}); err != nil {
				return err
			}
		}
		if !q.GetFollow() {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond): // a file has no channel
		case <-s.done:
			return nil
		case <-stream.Context().Done():
			return nil
		}
	}
}

// operated gives the Managers inside the test a control API, and their shims the
// agent's lines.
func operated(t *testing.T, env ...string) *lab {
	t.Helper()
	l := newLab(t, nil, env...)
	l.env = append(l.env, envLines+"="+l.agentLines())
	l.change = func(cfg *Config) { cfg.ControlSocket = l.socket() }
	return l
}

func (l *lab) socket() string     { return filepath.Join(l.dir, "c.sock") }
func (l *lab) agentLines() string { return filepath.Join(l.dir, "lines") }

func (l *lab) say(lines ...string) {
	l.t.Helper()
	var b strings.Builder
	for _, s := range lines {
		b.WriteString(strconv.Quote(s) + "\n")
	}
	l.write(l.agentLines(), b.String())
}

// write appends text to a file.
func (l *lab) write(name, text string) {
	l.t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
}

type operator struct {
	controlv1.ControlServiceClient
	*grpc.ClientConn
}

// operator connects to the control API.
func (l *lab) operator() operator {
	l.t.Helper()
	conn, err := grpc.NewClient("unix:"+l.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return operator{controlv1.NewControlServiceClient(conn), conn}
}

// running submits a run and waits until its VM runs and n events wait or passed.
func (l *lab) running(o operator) *controlv1.Run {
	l.t.Helper()
	id := l.submit()
	return l.seen(o, id, "running", func(r *controlv1.Run) bool { return r.GetState() == "running" && r.GetShimAnswers() })
}

// seen waits until the list shows a run as it should be.
func (l *lab) seen(o operator, id, what string, match func(*controlv1.Run) bool) *controlv1.Run {
	l.t.Helper()
	for l.ctx.Err() == nil {
		list, err := o.List(l.ctx, &controlv1.ListRequest{})
		if err != nil {
			l.t.Fatal(err)
		}
		for _, r := range list.GetRuns() {
			if r.GetRunId() == id && match(r) {
				return r
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Fatalf("run %s is never %s", id, what)
	return nil
}

// refusedWith checks the status of a call that was refused, and that it says
// what to do.
func refusedWith(t *testing.T, err error, code codes.Code, reason rpcerr.Reason, field, says string) {
	t.Helper()
	d, ok := rpcerr.DetailOf(err)
	if status.Code(err) != code || !ok || d.Reason != reason || d.Field != field || d.Hint == "" || !strings.Contains(status.Convert(err).Message(), says) {
		t.Errorf("got %v, %+v; expected %v %s %q with %q", err, d, code, reason, field, says)
	}
}

// collect reads a stream of lines to its end.
func collect(stream grpc.ServerStreamingClient[controlv1.LogsResponse], err error) ([]*controlv1.LogsResponse, error) {
	var out []*controlv1.LogsResponse
	for err == nil {
		var l *controlv1.LogsResponse
		if l, err = stream.Recv(); err == nil {
			out = append(out, l)
		}
	}
	return out, err
}

// ends fails the test when do does not end.
func ends(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatalf("%s does not end", what)
	}
}
