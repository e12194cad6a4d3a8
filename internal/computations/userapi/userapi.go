// Package userapi is the face of the Computation Management service for people's
// programs: the gRPC services of api/computations/v1, with reflection and health.
//
//   - A handler translates and calls one use case. What somebody may do is decided
//     in package computations, never here.
//   - No method is reached without a credential that holds, but for those in open,
//     and of each user only so many at once.
//   - A request is bounded in size and, unless it watches, in time; who watches and
//     doesn't read is sent away.
//   - Generated types stop here, and domain types don't leave: what a message does
//     not name is not shown.
//   - A refusal travels with its field and its hint; trouble of the service itself
//     is written into its log and shown without its text.
package userapi

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

const (
	// MaxRequest bounds any request to the server, in bytes.
	MaxRequest = largeRequest + 64<<10
	// largeRequest bounds those that carry a draft, an exported computation or a
	// receipt; smallRequest all others.
	largeRequest = 1<<20 + 64<<10
	smallRequest = 64 << 10

	defaultDeadline   = 30 * time.Second
	defaultConcurrent = 32
	defaultPatience   = 30 * time.Second
)

// Config of an API. Service is required.
type Config struct {
	Service *computations.Service
	// Version of the program, for people.
	Version string
	// Deadline of a call that doesn't watch; zero: 30 seconds.
	Deadline time.Duration
	// Concurrent calls of one user, or of one address without a credential; zero: 32.
	Concurrent int
	// Patience is how long whoever watches may take to read a message; zero: 30
	// seconds.
	Patience time.Duration
	// Log is told of what goes wrong inside; nil: slog.Default.
	Log *slog.Logger
}

// API is the services. Its methods may be called at the same time.
type API struct {
	c      Config
	health *health.Server

	mu sync.Mutex
	// running calls by user or address.
	running  map[string]int
	draining chan struct{}
	drain    sync.Once
}

// New returns the services.
func New(c Config) (*API, error) {
	if c.Service == nil {
		return nil, errors.New("the user API needs a service")
	}
	if c.Deadline == 0 {
		c.Deadline = defaultDeadline
	}
	if c.Concurrent == 0 {
		c.Concurrent = defaultConcurrent
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &API{c: c, health: health.NewServer(), running: map[string]int{}, draining: make(chan struct{})}, nil
}

// ServerOptions are those that a server needs before Register. Calls of other
// services pass through them untouched, but for MaxRequest.
func (a *API) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxRequest),
		grpc.ChainUnaryInterceptor(a.unary),
		grpc.ChainStreamInterceptor(a.stream),
	}
}

// Register puts the services on a server that has the ServerOptions.
func (a *API) Register(s *grpc.Server) {
	computationsv1.RegisterAccountsServiceServer(s, accounts{api: a, svc: a.c.Service})
	computationsv1.RegisterWorkspacesServiceServer(s, workspaces{svc: a.c.Service})
	computationsv1.RegisterInvitationsServiceServer(s, invitations{svc: a.c.Service})
	computationsv1.RegisterKeysServiceServer(s, userKeys{svc: a.c.Service})
	computationsv1.RegisterAssetsServiceServer(s, assets{svc: a.c.Service})
	computationsv1.RegisterComputationsServiceServer(s, drafts{svc: a.c.Service})
	computationsv1.RegisterRunsServiceServer(s, runs{svc: a.c.Service})
	computationsv1.RegisterHostsServiceServer(s, hosts{svc: a.c.Service})
	computationsv1.RegisterAuditServiceServer(s, audit{svc: a.c.Service})
	healthv1.RegisterHealthServer(s, a.health)
	reflection.Register(s)
	for name := range s.GetServiceInfo() {
		a.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
}

// Drain says that the service goes down: health is no longer "serving", and
// whoever watches is sent away, to go on elsewhere or later.
func (a *API) Drain() {
	a.drain.Do(func() {
		a.health.Shutdown()
		close(a.draining)
	})
}

// servicePrefix is that of the methods of this API.
const servicePrefix = "/cocos.computations.v1."

func ours(method string) bool { return strings.HasPrefix(method, servicePrefix) }

// open are the methods that need no credential: what they need is in the request.
var open = map[string]bool{
	computationsv1.AccountsService_GetService_FullMethodName:           true,
	computationsv1.AccountsService_SignIn_FullMethodName:               true,
	computationsv1.AccountsService_GetLink_FullMethodName:              true,
	computationsv1.AccountsService_RedeemLink_FullMethodName:           true,
	computationsv1.InvitationsService_GetInvitation_FullMethodName:     true,
	computationsv1.InvitationsService_AcceptAsNew_FullMethodName:       true,
	computationsv1.InvitationsService_DeclineInvitation_FullMethodName: true,
}

// large are the methods whose requests may be longer than smallRequest.
var large = map[string]bool{
	computationsv1.ComputationsService_CreateComputation_FullMethodName: true,
	computationsv1.ComputationsService_EditDraft_FullMethodName:         true,
	computationsv1.ComputationsService_ImportComputation_FullMethodName: true,
	computationsv1.RunsService_SubmitReceipt_FullMethodName:             true,
}

// checkRequest bounds a request, and refuses text that a database might not keep.
func checkRequest(method string, req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return errors.New("a request that is no message")
	}
	most := smallRequest
	if large[method] {
		most = largeRequest
	}
	if n := proto.Size(m); n > most {
		return tooLarge(n, most)
	}
	return checkText(m.ProtoReflect())
}

type identityKey struct{}

// who is the caller, whom the gate has let in.
func who(ctx context.Context) computations.Identity {
	id, _ := ctx.Value(identityKey{}).(computations.Identity) // none: no use case lets it pass
	return id
}
