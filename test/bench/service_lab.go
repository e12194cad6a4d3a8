package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const serviceBinary = "build/cocos-computations"

// serviceLab is the service in a process of its own, on a database that is full
// already, and who talks to it.
type serviceLab struct {
	process  *process
	address  string
	filled   filled
	managers []*benchManager
	// sent and acked count events of all Managers.
	sent, acked atomic.Int64

	mu     sync.Mutex
	failed error
	group  sync.WaitGroup
}

// diskFolder is a folder on a disk.
func diskFolder() (dir string, remove func() error, err error) {
	dir, err = os.MkdirTemp(diskParent, "cocos-bench-")
	if err != nil {
		return "", nil, fmt.Errorf("making a folder on disk: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// freshSQLite names the file that the service opens by itself.
func freshSQLite(dir string) (store.Config, error) {
	return store.Config{Path: filepath.Join(dir, "cocos.db")}, nil
}

// freshPostgreSQL makes a database on a server that lives as long as this program.
func freshPostgreSQL(string) (c store.Config, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("starting PostgreSQL: %v", r)
		}
	}()
	return storetest.PostgreSQL(noTest{}), nil
}

// noTest lets package storetest be used outside a test.
type noTest struct{ testing.TB }

func (noTest) Helper()           {}
func (noTest) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// filled is what the service finds.
type filled struct {
	runs  []computations.ID
	hosts []tls.Certificate
	roots *x509.CertPool
	// secrets are access tokens, of a user each.
	secrets []string
}

// benchUser makes one that may see everything in the workspace, with an access
// token.
func benchUser(w computations.Writer, workspace computations.ID) (id computations.ID, secret string, err error) {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	secret = "ct_" + base64.RawURLEncoding.EncodeToString(b)
	id = computations.NewID()
	now := time.Now()
	return id, secret, errors.Join(
		w.PutUser(computations.User{ID: id, Email: string(id) + "@example.org", EmailVerified: true, Created: now}),
		w.PutMember(computations.Member{Workspace: workspace, User: id, Role: computations.RoleAdministrator, Joined: now}),
		w.PutCredential(computations.Credential{ID: computations.NewID(), User: id, Kind: computations.AccessToken, Name: "bench",
			Hash: computations.HashSecret(secret), Created: now, Expires: now.Add(24 * time.Hour), Used: now}))
}

// fill makes users, computations with a run each, and the hosts that have them.
func fill(ctx context.Context, s *store.Store, authorityDir string, hosts, runs int) (f filled, err error) {
	if err := os.MkdirAll(authorityDir, 0o700); err != nil {
		return f, err
	}
	a, err := authority.Open(authority.Config{Dir: authorityDir})
	if err != nil {
		return f, err
	}
	f.roots = a.Pool()
	workspace := computations.NewID()
	var user computations.ID
	err = s.Update(ctx, func(w computations.Writer) error {
		f.secrets = nil
		if err := w.PutWorkspace(computations.Workspace{ID: workspace, Name: "bench", Created: time.Now()}); err != nil {
			return err
		}
		for range watchers / perUser {
			id, secret, err := benchUser(w, workspace)
			if err != nil {
				return err
			}
			user, f.secrets = id, append(f.secrets, secret)
		}
		return nil
	})
	if err != nil {
		return f, fmt.Errorf("filling the database: %w", err)
	}
	var ids []computations.ID
	for range hosts {
		h, cert, err := benchHost(a)
		if err != nil {
			return f, err
		}
		f.hosts, ids = append(f.hosts, cert), append(ids, h.ID)
		if err := s.Update(ctx, func(w computations.Writer) error { return w.PutHost(h) }); err != nil {
			return f, fmt.Errorf("filling the database: %w", err)
		}
	}
	owner, err := keys.Generate(keys.Ed25519)
	if err != nil {
		return f, err
	}
	for n := 0; n < runs; n += batchSize {
		var some []computations.ID
		err := s.Update(ctx, func(w computations.Writer) error {
			some = nil
			for i := n; i < min(n+batchSize, runs); i++ {
				run, err := benchRun(w, user, workspace, ids[i%len(ids)], owner.Public())
				if err != nil {
					return err
				}
				some = append(some, run)
			}
			return nil
		})
		if err != nil {
			return f, fmt.Errorf("filling the database: %w", err)
		}
		f.runs = append(f.runs, some...)
	}
	return f, nil
}

func benchHost(a *authority.Authority) (computations.Host, tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return computations.Host{}, tls.Certificate{}, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return computations.Host{}, tls.Certificate{}, err
	}
	h := computations.Host{ID: computations.NewID(), Enrolled: time.Now()}
	h.Name = "host-" + string(h.ID)
	signed, err := a.SignHost(string(h.ID), der)
	if err != nil {
		return h, tls.Certificate{}, err
	}
	h.Serial, h.CertificateExpires = signed.Serial, signed.Expires
	block, _ := pem.Decode(signed.PEM)
	return h, tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}, nil
}

// benchRun makes a computation whose run is under way on a host.
func benchRun(w computations.Writer, user, workspace, host computations.ID, owner keys.Public) (computations.ID, error) {
	m := manifest.Manifest{Version: manifest.Version, ID: "bench", Name: "Bench", TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Digest{1}, Size: 1, Provider: owner}, Consumers: []keys.Public{owner}}
	_, _ = rand.Read(m.Nonce[:])
	f, err := manifest.Freeze(m)
	if err != nil {
		return "", err
	}
	now := time.Now()
	c := computations.Computation{ID: computations.NewID(), Workspace: workspace, Creator: user, Created: now, Draft: computations.Draft{Name: "Bench", TEE: manifest.TEENone},
		Revision: 1, Manifest: f.Raw, Digest: f.Digest, Frozen: now}
	run := computations.Run{ID: computations.NewID(), Computation: c.ID, Workspace: workspace, Number: 1, State: computations.RunRunning, By: user, Host: host, Created: now, Started: now}
	return run.ID, errors.Join(w.PutComputation(c), w.SetParts(c.ID, user, []computations.Part{computations.PartCreator}), w.PutRun(run))
}

// withService gives do a service with 1,000 hosts and 10,000 computations.
func (l *lab) withService(ctx context.Context, fresh func(string) (store.Config, error), do func(context.Context, *serviceLab) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, serviceLimit, fmt.Errorf("not done within %v", serviceLimit))
	defer cancel()
	dir, remove, err := diskFolder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	config, err := fresh(dir)
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, config)
	if err != nil {
		return err
	}
	s := &serviceLab{}
	s.filled, err = fill(ctx, db, dir, serviceManagers, serviceRuns)
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	env := []string{"COMPUTATIONS_DATA_DIR=" + dir, "COMPUTATIONS_METRICS_ADDR=none", "COMPUTATIONS_LOG_LEVEL=warn"}
	if config.URL != "" {
		env = append(env, "COMPUTATIONS_DATABASE="+config.URL)
	}
	if s.address, err = freeAddress(); err != nil {
		return err
	}
	console, err := freeAddress()
	if err != nil {
		return err
	}
	env = append(env, "COMPUTATIONS_GRPC_ADDR="+s.address, "COMPUTATIONS_HTTP_ADDR="+console)
	if s.process, err = l.start("computations", env, serviceBinary); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.process.stop()) }()
	if err := s.reachable(ctx); err != nil {
		return fmt.Errorf("%w; the service said: %s", err, s.process.lastWords())
	}
	defer s.disconnect()
	if err := do(ctx, s); err != nil {
		return fmt.Errorf("%w; the service said: %s", err, s.process.lastWords())
	}
	return nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (s *serviceLab) reachable(ctx context.Context) error {
	for {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-s.process.done:
			return errors.New("it ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *serviceLab) dial(cert ...tls.Certificate) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(credentials.NewTLS(
		&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.filled.roots, Certificates: cert})),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10))
}

// fail notes the first failure of a Manager.
func (s *serviceLab) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
}

func (s *serviceLab) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// benchManager is a Manager without VMs.
type benchManager struct {
	lab    *serviceLab
	conn   *grpc.ClientConn
	stream grpc.BidiStreamingClient[managerv1.ConnectRequest, managerv1.ConnectResponse]
	cancel context.CancelFunc
	runs   []computations.ID

	mu    sync.Mutex
	next  []uint64 // sequence of each run
	turn  int
	acks  chan struct{}
	every time.Duration
}

// connectAll connects every host, and has it tell how it stands as it is asked to.
func (s *serviceLab) connectAll(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(32)
	s.managers = make([]*benchManager, len(s.filled.hosts))
	for i, cert := range s.filled.hosts {
		group.Go(func() error {
			m := &benchManager{lab: s, acks: make(chan struct{}, 1<<16)}
			for n := i; n < len(s.filled.runs); n += len(s.filled.hosts) {
				m.runs = append(m.runs, s.filled.runs[n])
			}
			m.next = make([]uint64, len(m.runs))
			s.managers[i] = m
			return m.connect(context.WithoutCancel(ctx), cert)
		})
	}
	return group.Wait()
}

func (m *benchManager) connect(ctx context.Context, cert tls.Certificate) (err error) {
	if m.conn, err = m.lab.dial(cert); err != nil {
		return err
	}
	ctx, m.cancel = context.WithCancel(ctx)
	if m.stream, err = managerv1.NewComputationsServiceClient(m.conn).Connect(ctx); err != nil {
		return err
	}
	hello := &managerv1.Hello{ProtocolVersion: 1, InstanceId: "bench", Version: "bench", Capacity: 100, Cpus: 2}
	for _, r := range m.runs {
		hello.Runs = append(hello.Runs, &managerv1.RunStatus{RunId: string(r), State: "running"})
	}
	if err := m.send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	first, err := m.stream.Recv()
	if err != nil {
		return fmt.Errorf("connecting a Manager: %w", err)
	}
	m.every = time.Duration(first.GetWelcome().GetStatusSeconds()) * time.Second
	m.lab.group.Go(m.receive)
	m.lab.group.Go(func() { m.tellStatus(ctx) })
	return nil
}

func (m *benchManager) send(in *managerv1.ConnectRequest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stream.Send(in)
}

func (m *benchManager) receive() {
	for {
		in, err := m.stream.Recv()
		if err != nil {
			if m.stream.Context().Err() == nil {
				m.lab.fail(fmt.Errorf("a Manager's stream: %w", err))
			}
			return
		}
		if in.GetEventAck() != nil {
			m.lab.acked.Add(1)
			m.acks <- struct{}{}
		}
	}
}

func (m *benchManager) tellStatus(ctx context.Context) {
	for m.every > 0 {
		if sleep(ctx, m.every) != nil {
			return
		}
		status := &managerv1.HostStatus{Running: uint32(len(m.runs)), Capacity: 100, MemoryFreeBytes: 1 << 30, Load: 1}
		if m.send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_HostStatus{HostStatus: status}}) != nil {
			return
		}
	}
}

// event sends one of the next run.
func (m *benchManager) event() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.turn % len(m.runs)
	m.turn++
	m.next[i]++
	m.lab.sent.Add(1)
	return m.stream.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Event{Event: &eventv1.Event{
		RunId: string(m.runs[i]), Source: eventv1.Source_SOURCE_AGENT, Sequence: m.next[i], Time: timestamppb.Now(),
		Kind: eventKind, Message: "something has happened", Attributes: map[string]string{"name": "data.csv"}}}})
}

// push keeps a window of events under way until ctx ends.
func (m *benchManager) push(ctx context.Context, window int) {
	for len(m.acks) > 0 {
		<-m.acks
	}
	for under := 0; ctx.Err() == nil; {
		if under < window {
			if m.event() != nil {
				return
			}
			under++
			continue
		}
		select {
		case <-m.acks:
			under--
		case <-ctx.Done():
		}
	}
}

// pace sends an event every so often until ctx ends.
func (m *benchManager) pace(ctx context.Context, every, first time.Duration) {
	if sleep(ctx, first) != nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if m.event() != nil {
			return
		}
		for len(m.acks) > 0 {
			<-m.acks
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *serviceLab) disconnect() {
	for _, m := range s.managers {
		if m != nil && m.cancel != nil {
			m.cancel()
			_ = m.conn.Close()
		}
	}
	s.group.Wait()
}

// watchPaced has events come at a rate, and returns how long it takes at most
// until a watcher has one, but for one in a hundred. Those count that were made in
// the time that is measured, however late they come; what watchers are sent of the
// time before does not.
func (s *serviceLab) watchPaced(ctx context.Context, rate float64) (_ float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu         sync.Mutex
		waits      []float64
		from, last time.Time // made from when on; when the last one came
		watching   sync.WaitGroup
		pacing     sync.WaitGroup
	)
	defer watching.Wait()
	defer cancel()
	var conn *grpc.ClientConn
	for i := range watchers {
		asUser := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.filled.secrets[i/perUser])
		if i%perUser == 0 {
			if conn, err = s.dial(); err != nil {
				return 0, err
			}
			defer conn.Close()
		}
		run := s.filled.runs[i*len(s.filled.runs)/watchers]
		stream, err := computationsv1.NewRunsServiceClient(conn).Watch(asUser, &computationsv1.WatchRequest{RunId: string(run)})
		if err != nil {
			return 0, fmt.Errorf("watching: %w", err)
		}
		watching.Go(func() {
			for {
				in, err := stream.Recv()
				if err != nil {
					if ctx.Err() == nil {
						s.fail(fmt.Errorf("a watcher's stream: %w", err))
					}
					return
				}
				now := time.Now()
				mu.Lock()
				for _, e := range in.GetEntries() {
					if made := e.GetTime().AsTime(); !from.IsZero() && e.GetKind() == eventKind && !made.Before(from) {
						waits = append(waits, milliseconds(now.Sub(made)))
					}
				}
				last = now
				mu.Unlock()
			}
		})
	}
	every := time.Duration(float64(len(s.managers)) / rate * float64(time.Second))
	paced, stop := context.WithCancel(ctx)
	defer pacing.Wait()
	defer stop()
	for i, m := range s.managers {
		pacing.Go(func() { m.pace(paced, every, every*time.Duration(i)/time.Duration(len(s.managers))) })
	}
	if err := sleep(ctx, warmUp); err != nil {
		return 0, err
	}
	mu.Lock()
	from = time.Now()
	mu.Unlock()
	if err := sleep(ctx, taken); err != nil {
		return 0, err
	}
	stop()
	pacing.Wait()
	if err := s.settle(); err != nil {
		return 0, err
	}
	for quiet := false; !quiet; { // what was committed is still on its way
		if err := sleep(ctx, time.Second); err != nil {
			return 0, err
		}
		mu.Lock()
		quiet = time.Since(last) > time.Second
		mu.Unlock()
	}
	cancel()
	watching.Wait()
	if err := s.trouble(); err != nil {
		return 0, err
	}
	if len(waits) < 100 {
		return 0, fmt.Errorf("watchers saw %d events only", len(waits))
	}
	return percentile(waits, 0.99), nil
}
