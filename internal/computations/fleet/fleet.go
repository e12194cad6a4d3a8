// Package fleet serves Managers: hosts join, keep one stream each, are given runs
// and tell what becomes of them.
//
// The database is the truth, and streams pull. The scheduler, one in every
// process and one at a time, writes down which host a run is offered to; the
// process that holds that host's stream is told by a signal, or finds it at the
// next connection, and sends the request. Invariants:
//
//   - A run is offered to one host, and to no other until that one has refused
//     it. A Manager starts a run once, however often it is asked; so a run starts
//     at most once, whoever dies when.
//   - What a Manager tells is acknowledged after it is committed, and the same
//     told again is dropped by its key: it counts once.
//   - A host speaks of the runs that it was given, and of no others: everything
//     else it says is dropped.
//   - A run's state follows from what was told by one table (steps), and never
//     goes back.
//   - All streams of a process commit through one committer, which takes from
//     each in turn; a stream that has much waiting, or doesn't read, is not read
//     from. So a host that floods, or hangs, holds up itself alone.
//   - Who a host is, its certificate says, whose serial leads to its row. A host
//     that isn't there, or is revoked, is refused at once and while it is
//     connected.
//
// Generated types appear in the handlers and in convert.go.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

// ProtocolVersion is that of cocos.manager.v1.
const ProtocolVersion = 1

// Config of a Fleet. Store and Authority are required.
type Config struct {
	Store     computations.Store
	Authority *authority.Authority
	// Process names this process among those on the same database; empty: a random
	// name.
	Process string
	// ServerAuthorities is what hosts are told to know this server by, PEM; nil:
	// nothing, they go on trusting whom they trusted when they joined.
	ServerAuthorities []byte
	// MaxEntries and MaxBytes are from how many entries of a run, or bytes of them, on
	// its log lines are not kept, and its events no more than needed; zero: 100,000
	// and 64 MiB.
	MaxEntries, MaxBytes int64
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Log is told what operators should know; nil: slog.Default.
	Log *slog.Logger
	// Registry takes the figures; nil: there are none.
	Registry prometheus.Registerer
	// Step is called at each step between which a process may die; tests die there.
	// Nil: nothing.
	Step func(point string)
}

// Fleet is one process's share of the hosts.
type Fleet struct {
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	committer *committer

	mu      sync.Mutex
	streams map[computations.ID]*stream
	closed  bool
	serving sync.WaitGroup // handlers of streams
	number  atomic.Uint64  // of the last stream

	looks chan struct{} // holds one for each aside that is done now
	// connects and renewals bound what one host makes the database do.
	connects, renewals *paces
}

// looksAtOnce is how many streams look into the database at the same moment.
const looksAtOnce = 16

// New makes a fleet; Run has to run for it to do anything.
func New(c Config) (*Fleet, error) {
	if c.Store == nil || c.Authority == nil {
		return nil, errors.New("a fleet needs a store and an authority")
	}
	if c.Process == "" {
		c.Process = string(computations.NewID())
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = 100_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	f := &Fleet{cfg: c, log: c.Log, streams: map[computations.ID]*stream{}, looks: make(chan struct{}, looksAtOnce),
		connects: newPaces(connectRate, connectBurst), renewals: newPaces(renewRate, renewBurst)}
	f.metrics = newMetrics(f)
	if c.Registry != nil {
		if err := f.metrics.register(c.Registry); err != nil {
			return nil, fmt.Errorf("preparing the fleet's metrics: %w", err)
		}
	}
	f.committer = newCommitter(f)
	return f, nil
}

// Register adds the services that Managers call.
func (f *Fleet) Register(r grpc.ServiceRegistrar) {
	managerv1.RegisterComputationsServiceServer(r, connectService{f: f})
	managerv1.RegisterEnrolServiceServer(r, enrolService{f: f})
}

// ServerOptions are for the server of a fleet: with them a connected Manager that
// is silent costs little memory, and one that floods no more than it may.
func ServerOptions() []grpc.ServerOption {
	const buffer, window = 4 << 10, 64 << 10
	return []grpc.ServerOption{
		grpc.ReadBufferSize(buffer), grpc.WriteBufferSize(buffer),
		// A fixed window: else it grows with what a peer sends.
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(100), grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(20 * time.Second),
		// Managers ask every 20 seconds whether this end is still there.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}),
	}
}

// maxMessage bounds what a Manager sends at once, in bytes: an event of 1 MiB,
// with room to spare.
const maxMessage = 2 << 20

// goodbye is how long streams get to end when the process does.
const goodbye = 5 * time.Second

// Run commits and schedules until ctx ends, then ends every stream and commits
// what has come.
func (f *Fleet) Run(ctx context.Context) error {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { f.committer.run(working) })
	group.Go(func() { f.schedule(ctx) })
	<-ctx.Done()
	f.endAll(status.Error(codes.Unavailable, "the service is shutting down; connect again"))
	stop()
	group.Wait()
	return nil
}

// endAll ends every stream, and lets none begin any more.
func (f *Fleet) endAll(why error) {
	f.mu.Lock()
	f.closed = true
	for _, s := range f.streams {
		s.end(why)
	}
	f.mu.Unlock()
	ended := make(chan struct{})
	go func() { f.serving.Wait(); close(ended) }() // a handler returns once it is told to
	select {
	case <-ended:
	case <-time.After(goodbye):
		f.log.Warn("not every Manager's stream has ended in time")
	}
}

// join makes a stream this process's one of its host; an older one ends.
func (f *Fleet) join(s *stream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return status.Error(codes.Unavailable, "the service is shutting down; connect again")
	}
	if old := f.streams[s.host]; old != nil {
		old.end(errReplaced)
	}
	f.streams[s.host] = s
	f.serving.Add(1)
	return nil
}

func (f *Fleet) leave(s *stream) {
	f.mu.Lock()
	if f.streams[s.host] == s {
		delete(f.streams, s.host)
	}
	f.mu.Unlock()
	f.serving.Done()
}

// Connected counts the Managers that this process serves.
func (f *Fleet) Connected() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.streams)
}

// now in UTC and in microseconds, which every database keeps.
func (f *Fleet) now() time.Time { return f.cfg.Now().UTC().Truncate(time.Microsecond) }

// step marks a step.
func (f *Fleet) step(point string) {
	if f.cfg.Step != nil {
		f.cfg.Step(point)
	}
}

// stepEvents marks a step of a batch once for each event in it: how many batches
// there are depends on the machine's speed, how many events does not.
func (f *Fleet) stepEvents(point string, portions []portion) {
	if f.cfg.Step == nil {
		return
	}
	for _, p := range portions {
		for i := range p.items {
			if p.items[i].ack != nil {
				f.cfg.Step(point)
			}
		}
	}
}
