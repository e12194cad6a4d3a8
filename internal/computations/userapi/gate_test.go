package userapi_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/userapi"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// as is a context of somebody's calls.
func (w *world) as(name string) context.Context {
	return metadata.AppendToOutgoingContext(w.t.Context(), "authorization", "bearer "+w.secrets[name])
}

func wantReason(t *testing.T, err error, code codes.Code, reason rpcerr.Reason, field, text string) {
	t.Helper()
	d, _ := rpcerr.DetailOf(err)
	if status.Code(err) != code || d.Reason != reason || d.Field != field || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v with %+v; want %v, %s, field %q, %q", err, d, code, reason, field, text)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	accounts, drafts := computationsv1.NewAccountsServiceClient(conn), computationsv1.NewComputationsServiceClient(conn)
	_, err := accounts.SetName(w.as("carl"), &computationsv1.SetNameRequest{Name: strings.Repeat("x", 64<<10)})
	wantReason(t, err, codes.InvalidArgument, rpcerr.SizeExceeded, "", "at most 65536 are taken")
	// A draft may be larger; that one is refused for another reason.
	d := w.draft()
	d.Description = strings.Repeat("x", 128<<10)
	_, err = drafts.CreateComputation(w.as("carl"), &computationsv1.CreateComputationRequest{WorkspaceId: string(w.things["workspace"]), Draft: d})
	wantReason(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, "description", "")
	d.Description = strings.Repeat("x", 1<<20+64<<10)
	_, err = drafts.CreateComputation(w.as("carl"), &computationsv1.CreateComputationRequest{WorkspaceId: string(w.things["workspace"]), Draft: d})
	wantReason(t, err, codes.InvalidArgument, rpcerr.SizeExceeded, "", "the request has")
	// What is larger still isn't even read.
	d.Description = strings.Repeat("x", userapi.MaxRequest)
	_, err = drafts.CreateComputation(w.as("carl"), &computationsv1.CreateComputationRequest{WorkspaceId: string(w.things["workspace"]), Draft: d})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of more than %d bytes: %v", userapi.MaxRequest, err)
	}
}

func TestTextsWithNULAreRefused(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	_, err := computationsv1.NewAccountsServiceClient(conn).SignIn(t.Context(), &computationsv1.SignInRequest{Email: "a\x00b@example.org"})
	wantReason(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, "email", "NUL")
	drafts := computationsv1.NewComputationsServiceClient(conn)
	for field, change := range map[string]func(*computationsv1.Draft){
		"name":         func(d *computationsv1.Draft) { d.Datasets[0].Name = "\x00" },
		"args":         func(d *computationsv1.Draft) { d.Algorithm.Args = []string{"a", "\x00"} },
		"key":          func(d *computationsv1.Draft) { d.Algorithm.Env = map[string]string{"\x00": ""} },
		"value":        func(d *computationsv1.Draft) { d.Algorithm.Env = map[string]string{"A": "\x00"} },
		"consumer_ids": func(d *computationsv1.Draft) { d.ConsumerIds[0] = "\x00" },
	} {
		d := w.draft()
		change(d)
		_, err := drafts.CreateComputation(w.as("carl"), &computationsv1.CreateComputationRequest{WorkspaceId: string(w.things["workspace"]), Draft: d})
		wantReason(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, field, "NUL")
	}
}

// A call ends with its time, and with it what it does in the database.
func TestCallsEndWithTheirTime(t *testing.T) {
	w := newWorld(t)
	conn := w.serve(func(c *userapi.Config) { c.Deadline = time.Nanosecond })
	_, err := computationsv1.NewWorkspacesServiceClient(conn).ListWorkspaces(w.as("ada"), &computationsv1.ListWorkspacesRequest{})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

// Watching is not bound to that time.
func TestWatchingOutlivesTheDeadline(t *testing.T) {
	w := newWorld(t)
	conn := w.serve(func(c *userapi.Config) { c.Deadline = time.Nanosecond })
	stream, err := computationsv1.NewRunsServiceClient(conn).Watch(w.as("vera"), &computationsv1.WatchRequest{RunId: string(w.things["run"])})
	w.check(err)
	if m, err := stream.Recv(); err != nil || len(m.GetEntries()) == 0 {
		t.Errorf("got %v, %v", m, err)
	}
}

// Each user has a bound, with however many credentials; others don't wait for it.
func TestConcurrentCallsAreBoundedForEachUser(t *testing.T) {
	w := newWorld(t)
	const most = 3
	conn := w.serve(func(c *userapi.Config) { c.Concurrent = most })
	runs := computationsv1.NewRunsServiceClient(conn)
	watch := func(name string) (context.CancelFunc, error) {
		ctx, cancel := context.WithCancel(w.as(name))
		stream, err := runs.Watch(ctx, &computationsv1.WatchRequest{RunId: string(w.things["queued run"])})
		w.check(err)
		_, err = stream.Recv() // it is under way
		return cancel, err
	}
	var leave context.CancelFunc
	for range most {
		cancel, err := watch("vera")
		w.check(err)
		leave = cancel
		defer cancel()
	}
	_, err := watch("vera")
	wantReason(t, err, codes.ResourceExhausted, rpcerr.TooManyCalls, "", "3 calls of yours")
	w.secrets["vera, again"] = secretOf("ct_", "vera")
	w.credential("vera", computations.AccessToken, w.secrets["vera, again"], time.Hour)
	_, err = watch("vera, again")
	wantReason(t, err, codes.ResourceExhausted, rpcerr.TooManyCalls, "", "3 calls of yours")
	if cancel, err := watch("rune"); err != nil {
		t.Errorf("somebody else: %v", err)
	} else {
		cancel()
	}
	leave()
	for try := 0; ; try++ {
		cancel, err := watch("vera")
		if err == nil {
			cancel()
			break
		}
		if try == 500 {
			t.Fatalf("a place that was left stays taken: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Who watches and doesn't read is sent away, and keeps no place.
func TestWhoDoesNotReadIsSentAway(t *testing.T) {
	w := newWorld(t)
	conn := w.serve(func(c *userapi.Config) { c.Concurrent, c.Patience = 1, 100*time.Millisecond })
	runs := computationsv1.NewRunsServiceClient(conn)
	w.put(func(tx computations.Writer) error {
		var entries []computations.Entry
		for i := range int64(500) { // more than what waits for a reader on its way
			entries = append(entries, computations.Entry{
				Run: w.things["queued run"], Type: computations.EntryEvent, Source: "agent", Sequence: i + 1, Kind: "test", Message: strings.Repeat("x", 8<<10),
			})
		}
		_, err := tx.Append(entries)
		return err
	})
	stream, err := runs.Watch(w.as("vera"), &computationsv1.WatchRequest{RunId: string(w.things["queued run"])})
	w.check(err)
	_, err = stream.Recv() // it is under way, and that was all
	w.check(err)
	for try := 0; ; try++ {
		_, err := runs.GetRun(w.as("vera"), &computationsv1.GetRunRequest{RunId: string(w.things["queued run"])})
		if err == nil {
			break
		}
		wantReason(t, err, codes.ResourceExhausted, rpcerr.TooManyCalls, "", "1 calls of yours")
		if try == 1000 {
			t.Fatal("whoever doesn't read keeps the place")
		}
		time.Sleep(10 * time.Millisecond)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Aborted {
		t.Errorf("the watcher got %v", err)
	}
}

// Those without a credential have the bound of their address.
func TestConcurrentStrangersAreBounded(t *testing.T) {
	w := newWorld(t)
	conn := w.serve(func(c *userapi.Config) { c.Concurrent = 1 })
	accounts := computationsv1.NewAccountsServiceClient(conn)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		busy int
	)
	for i := range 50 {
		wg.Go(func() {
			_, err := accounts.SignIn(t.Context(), &computationsv1.SignInRequest{Email: fmt.Sprintf("u%d@example.org", i), Password: "not the password"})
			if d, _ := rpcerr.DetailOf(err); d.Reason == rpcerr.TooManyCalls {
				mu.Lock()
				defer mu.Unlock()
				busy++
			}
		})
	}
	wg.Wait()
	if busy == 0 {
		t.Error("50 strangers at once were all let in, one at a time being the bound")
	}
}

// Trouble of the service itself is in its log, and not in the answer.
func TestInternalErrorsAreNotShown(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	conn := w.serve(func(c *userapi.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	ctx := w.as("ada")
	w.put(func(tx computations.Writer) error {
		c, err := tx.Computation(w.things["draft"])
		if err != nil {
			return err
		}
		c.Draft.Consumers = []computations.ID{computations.NewID()} // as no use case would leave it
		return tx.PutComputation(c)
	})
	_, err := computationsv1.NewComputationsServiceClient(conn).GetComputation(ctx, &computationsv1.GetComputationRequest{ComputationId: string(w.things["draft"])})
	wantReason(t, err, codes.Internal, rpcerr.InternalFailure, "", "the service failed")
	if strings.Contains(err.Error(), computations.ErrNoRow.Error()) {
		t.Errorf("the answer tells of the inside: %v", err)
	}
	if !strings.Contains(log.String(), "GetComputation") || !strings.Contains(log.String(), computations.ErrNoRow.Error()) {
		t.Errorf("the log says %q", log.String())
	}
}

// Who watches is sent away when the service goes down, and health says so.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	health := healthv1.NewHealthClient(conn)
	for _, name := range []string{"", "cocos.computations.v1.RunsService"} {
		r, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		if err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", name, r, err)
		}
	}
	stream, err := computationsv1.NewRunsServiceClient(conn).Watch(w.as("vera"), &computationsv1.WatchRequest{RunId: string(w.things["queued run"])})
	w.check(err)
	_, err = stream.Recv()
	w.check(err)
	conn.api.Drain()
	conn.api.Drain() // again is no harm
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watcher got %v", err)
	}
	r, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || r.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
}

// A watcher whose credential is revoked sees nothing more.
func TestRevokedWatcherSeesNothingMore(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	stream, err := computationsv1.NewRunsServiceClient(conn).Watch(w.as("vera"), &computationsv1.WatchRequest{RunId: string(w.things["queued run"])})
	w.check(err)
	_, err = stream.Recv()
	w.check(err)
	w.check(w.svc.SignOut(t.Context(), w.who["vera"]))
	w.put(func(tx computations.Writer) error {
		return computations.ServiceEvent(tx, w.things["queued run"], time.Now(), "test", "secret", nil)
	})
	m, err := stream.Recv()
	wantReason(t, err, codes.Unauthenticated, rpcerr.SignInRequired, "", "not signed in")
	if m != nil {
		t.Errorf("got %v", m)
	}
}

func TestReflection(t *testing.T) {
	w := newWorld(t)
	stream, err := reflectionv1.NewServerReflectionClient(w.serve()).ServerReflectionInfo(t.Context())
	w.check(err)
	w.check(stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}))
	r, err := stream.Recv()
	w.check(err)
	names := map[string]bool{}
	for _, s := range r.GetListServicesResponse().GetService() {
		names[s.GetName()] = true
	}
	for name := range descriptors() {
		service, _, _ := strings.Cut(name, "/")
		if !names[protoPackage+"."+service] {
			t.Errorf("reflection has no %s", service)
		}
	}
}
