package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// ControlVersion is that of cocos.control.v1.
const ControlVersion = 1

// Bounds of the control API. Its callers are the host's operators; a mistake of
// theirs must not hurt the Manager.
const (
	maxControlConns   = 64
	maxControlStreams = 16 // of one connection
	maxControlRequest = 64 << 10
	maxControlHeader  = 8 << 10
	// maxTails bounds Logs over all connections.
	maxTails = 16
	// maxLooks bounds the runs that are looked at, over all connections.
	maxLooks = 64
	// A connection that nobody uses is closed, a caller that does not answer is
	// given up.
	controlIdle         = 10 * time.Minute
	controlPing         = time.Minute
	controlPingTimeout  = 20 * time.Second
	controlHandshake    = 5 * time.Second
	controlClientPings  = 5 * time.Second
	controlGoodbye      = 2 * time.Second
	healthServer        = "server" // whether the computations server is connected
	controlBufferedData = 32 << 10
)

// control serves people on this host.
type control struct {
	controlv1.UnimplementedControlServiceServer
	m      *Manager
	begun  time.Time
	socket *controlSocket
	server *grpc.Server
	health *health.Server
	// tails has a token for each Logs.
	tails chan struct{}
	// looks has a token for each look at a run.
	looks  chan struct{}
	served sync.WaitGroup
	closed sync.Once
}

// openControl makes the control API's socket; nil where none is wanted. Whoever
// connects waits until serve.
func (m *Manager) openControl() (*control, error) {
	if m.cfg.ControlSocket == "" {
		return nil, nil
	}
	socket, err := listenControl(m.cfg.ControlSocket, m.cfg.ControlGroup)
	if err != nil {
		return nil, err
	}
	if err := socket.reachable(m.cfg.ControlGroup); err != nil {
		m.cfg.Log.Warn("the control socket can't be reached by its group", "error", err)
	}
	c := &control{m: m, begun: time.Now(), socket: socket, health: health.NewServer(), tails: make(chan struct{}, maxTails), looks: make(chan struct{}, maxLooks)}
	c.server = grpc.NewServer(
		grpc.Creds(peerCredentials{slots: make(chan struct{}, maxControlConns)}),
		grpc.MaxConcurrentStreams(maxControlStreams),
		grpc.MaxRecvMsgSize(maxControlRequest),
		grpc.MaxHeaderListSize(maxControlHeader),
		grpc.WriteBufferSize(controlBufferedData),
		grpc.ReadBufferSize(controlBufferedData),
		grpc.ConnectionTimeout(controlHandshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: controlIdle, Time: controlPing, Timeout: controlPingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: controlClientPings, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)
	controlv1.RegisterControlServiceServer(c.server, c)
	healthv1.RegisterHealthServer(c.server, c.health)
	reflection.Register(c.server)
	c.health.SetServingStatus(controlv1.ControlService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	c.tellLine(false)
	m.watched.line.changed = c.tellLine
	return c, nil
}

func (c *control) tellLine(connected bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if connected {
		status = healthv1.HealthCheckResponse_SERVING
	}
	c.health.SetServingStatus(healthServer, status)
}

// serve serves until close.
func (c *control) serve() {
	if c == nil {
		return
	}
	c.served.Go(func() {
		if err := c.server.Serve(c.socket); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			c.m.cfg.Log.Error("serving the control API failed", "error", err)
		}
	})
	c.m.cfg.Log.Info("the control API is served", "socket", c.socket.path, "group", c.m.cfg.ControlGroup)
}

// close ends the calls that are under way: after a short time for those that are
// about to be answered, whatever their callers do.
func (c *control) close() (err error) {
	if c == nil {
		return nil
	}
	c.closed.Do(func() {
		c.health.Shutdown()
		if err = c.socket.remove(); err != nil {
			err = fmt.Errorf("removing the control socket: %w", err)
		}
		force := time.AfterFunc(controlGoodbye, c.server.Stop)
		defer force.Stop()
		c.server.GracefulStop()
		_ = c.socket.Close() // where it was never served
		c.served.Wait()
	})
	return err
}

// refuse is an error that says what to do.
func refuse(code codes.Code, reason rpcerr.Reason, field, hint, format string, args ...any) error {
	return rpcerr.New(code, rpcerr.Detail{Reason: reason, Field: field, Hint: hint}, format, args...)
}

// find is the run that name names: its id, or the beginning of it.
func (c *control) find(field, name string) (*run, error) {
	const hint = "cocos-cli manager list shows the runs"
	if name == "" || !isRunPrefix(name) {
		return nil, refuse(codes.InvalidArgument, rpcerr.ArgumentInvalid, field, hint, "%s: %.64q is not a run's UUID, nor the beginning of one", field, name)
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if r, ok := c.m.runs[name]; ok {
		return r, nil
	}
	var found *run
	n := 0
	for id, r := range c.m.runs {
		if len(name) < len(id) && id[:len(name)] == name {
			found = r
			n++
		}
	}
	switch n {
	case 1:
		return found, nil
	case 0:
		if _, ended := c.m.state.ended(name); ended {
			return nil, refuse(codes.NotFound, rpcerr.RunUnknown, field, "nothing of it is left on this host; its events are with the computations server",
				"%s: run %s has ended and was removed", field, name)
		}
		return nil, refuse(codes.NotFound, rpcerr.RunUnknown, field, hint, "%s: this Manager has no run %s", field, name)
	}
	return nil, refuse(codes.FailedPrecondition, rpcerr.RunAmbiguous, field, "give more of it; "+hint, "%s: %d runs begin with %s", field, n, name)
}

// isRunPrefix tells whether a run's id can begin with s.
func isRunPrefix(s string) bool {
	const shape = "00000000-0000-0000-0000-000000000000"
	if len(s) > len(shape) {
		return false
	}
	for i := range len(s) {
		b := s[i]
		hex := b >= '0' && b <= '9' || b >= 'a' && b <= 'f'
		if hex == (shape[i] == '-') || !hex && b != '-' {
			return false
		}
	}
	return true
}

// all are the runs of the moment.
func (c *control) all() []*run {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	runs := make([]*run, 0, len(c.m.runs))
	for _, r := range c.m.runs {
		runs = append(runs, r)
	}
	return runs
}

// Stop implements control.proto.
func (c *control) Stop(ctx context.Context, r *controlv1.StopRequest) (*controlv1.StopResponse, error) {
	grace, err := checkStop(r)
	if err != nil {
		return nil, err
	}
	runs := map[string]*run{}
	for i, name := range r.GetRuns() {
		found, err := c.find(fmt.Sprintf("runs/%d", i), name)
		if err != nil {
			return nil, err // of several nothing is stopped unless all are known
		}
		runs[found.id] = found
	}
	log := c.m.cfg.Log.With("by", callerOf(ctx))
	if r.GetDrain() {
		log.Warn("the Manager is told to take no more runs until it is started again")
		c.m.refuseRuns()
	}
	if r.GetAll() {
		for _, found := range c.all() {
			runs[found.id] = found
		}
	}
	if r.GetDrain() && r.GetWait() {
		return c.drain(ctx, runs, grace)
	}
	given := "as usual"
	if grace > 0 {
		given = grace.String()
	}
	stopped := make([]*controlv1.Stopped, 0, len(runs))
	var group sync.WaitGroup
	for _, found := range sorted(runs) {
		s := &controlv1.Stopped{RunId: found.id}
		stopped = append(stopped, s)
		group.Go(func() {
			log.Info("a stop is asked for on the control socket", "run", found.id, "grace", given, "all", r.GetAll())
			if faults := c.m.halt(ctx, found.id, grace); len(faults) > 0 {
				s.Problem = FaultsError(faults)
				return
			}
			if !r.GetWait() {
				return
			}
			select {
			case <-found.left:
				s.Gone = true
			case <-ctx.Done():
			}
		})
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &controlv1.StopResponse{Runs: stopped}, nil
}

// drain ends every VM and answers when that is over.
func (c *control) drain(ctx context.Context, runs map[string]*run, grace time.Duration) (*controlv1.StopResponse, error) {
	err := c.m.haltAll(ctx, grace)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var left *Unfinished
	if err != nil && !errors.As(err, &left) {
		return nil, refuse(codes.Internal, rpcerr.InternalFailure, "", "see the Manager's log", "ending every VM: %v", err)
	}
	out := &controlv1.StopResponse{}
	for _, r := range sorted(runs) {
		s := &controlv1.Stopped{RunId: r.id}
		switch {
		case left != nil && slices.Contains(left.Running, r.id):
			s.Problem = "its VM has not ended"
			if left.Err != nil {
				s.Problem += ": " + left.Err.Error()
			}
		case left != nil && slices.Contains(left.Untold, r.id):
			s.Problem = "its VM has ended, but the computations server has not heard everything; it is kept, and told by the next Manager"
		default:
			s.Gone = true
		}
		out.Runs = append(out.Runs, s)
	}
	return out, nil
}

// maxGrace bounds how long a guest may be given, as the configuration does.
const maxGrace = time.Hour

func checkStop(r *controlv1.StopRequest) (grace time.Duration, err error) {
	invalid := func(field, hint, format string, args ...any) error {
		return refuse(codes.InvalidArgument, rpcerr.ArgumentInvalid, field, hint, format, args...)
	}
	switch {
	case r.GetAll() && len(r.GetRuns()) > 0:
		return 0, invalid("all", "name the runs, or say all", "all: is set, and runs are named")
	case !r.GetAll() && len(r.GetRuns()) == 0:
		return 0, invalid("runs", "name the runs, or say all", "runs: is empty")
	case r.GetDrain() && !r.GetAll():
		return 0, invalid("drain", "drain ends every VM: say all", "drain: is set, and all is not")
	case r.GraceSeconds == nil:
		return 0, nil
	}
	grace = time.Duration(r.GetGraceSeconds()) * time.Second
	if grace < time.Second || grace > maxGrace {
		return 0, invalid("grace_seconds", "leave it out for the usual time", "grace_seconds: is %d; expected 1 to %d", r.GetGraceSeconds(), int(maxGrace.Seconds()))
	}
	return grace, nil
}
