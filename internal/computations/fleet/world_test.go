package fleet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/computations/fleet"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// patience is how long a test waits for what must come; nothing is measured.
const patience = time.Minute

// world is a database, an authority, and who uses them.
type world struct {
	t         *testing.T
	ctx       context.Context
	config    store.Config
	store     *store.Store
	authority *authority.Authority
	clock     *clock
	user      computations.ID
	workspace computations.ID
	numbers   map[computations.ID]int64
}

// clock is the real time, and what was added to it.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// each runs a test on every kind of database.
func each(t *testing.T, f func(w *world)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		t.Parallel()
		f(newWorld(t, fresh(t)))
	})
}

func newWorld(t *testing.T, config store.Config) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, config: config, store: storetest.Open(t, config), clock: &clock{}, user: computations.NewID(), workspace: computations.NewID(), numbers: map[computations.ID]int64{}}
	a, err := authority.Open(authority.Config{Dir: t.TempDir(), Now: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	w.authority = a
	w.update(func(x computations.Writer) error {
		return errors.Join(
			x.PutUser(computations.User{ID: w.user, Email: "a@example.org", Created: w.clock.now()}),
			x.PutWorkspace(computations.Workspace{ID: w.workspace, Name: "w", Created: w.clock.now()}))
	})
	return w
}

func (w *world) update(f func(computations.Writer) error) {
	w.t.Helper()
	if err := w.store.Update(w.ctx, f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) view(f func(computations.Reader) error) {
	w.t.Helper()
	if err := w.store.View(w.ctx, f); err != nil {
		w.t.Fatal(err)
	}
}

// await looks until done does.
func (w *world) await(what string, done func(r computations.Reader) (bool, error)) {
	w.t.Helper()
	var last error
	for w.ctx.Err() == nil {
		ok := false
		last = w.store.View(w.ctx, func(r computations.Reader) (err error) { ok, err = done(r); return err })
		if ok && last == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatalf("waiting for %s: %v", what, last)
}

// process is one service process: a fleet and its listener.
type process struct {
	*fleet.Fleet
	address string
	stop    func()
}

// process starts one, on a store of its own where it isn't the world's.
func (w *world) process(change ...func(*fleet.Config)) *process {
	w.t.Helper()
	c := fleet.Config{Store: w.store, Authority: w.authority, Now: w.clock.now, Log: slog.New(slog.NewTextHandler(testLog{w.t}, nil)), ServerAuthorities: w.authority.PEM()}
	for _, f := range change {
		f(&c)
	}
	f, err := fleet.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	own, err := w.authority.Server("127.0.0.1")
	if err != nil {
		w.t.Fatal(err)
	}
	s := grpc.NewServer(append(fleet.ServerOptions(), grpc.Creds(credentials.NewTLS(w.authority.TLS(own.Certificate))))...)
	f.Register(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = s.Serve(l) })
	group.Go(func() {
		if err := f.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	p := &process{Fleet: f, address: l.Addr().String()}
	p.stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	w.t.Cleanup(func() { p.stop() })
	context.AfterFunc(ctx, func() { time.AfterFunc(50*time.Millisecond, s.Stop) })
	return p
}

// secondStore is another process's connection to the same database.
func (w *world) secondStore() *store.Store {
	w.t.Helper()
	return storetest.Open(w.t, w.config)
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	select {
	case <-l.t.Context().Done(): // nobody reads it any more
	default:
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

var _ io.Writer = testLog{}

// token makes one that lets a host in.
func (w *world) token(name string, ttl time.Duration) string {
	w.t.Helper()
	secret := "ce_" + string(computations.NewID())
	w.update(func(x computations.Writer) error {
		return x.PutEnrolToken(computations.EnrolToken{ID: computations.NewID(), Name: name, Hash: computations.HashSecret(secret), By: w.user,
			Created: w.clock.now(), Expires: w.clock.now().Add(ttl)})
	})
	return secret
}

// host is a machine that has joined.
type host struct {
	w     *world
	id    computations.ID
	name  string
	key   *ecdsa.PrivateKey
	cert  tls.Certificate
	hello *managerv1.Hello
}

func newRequest(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// dial connects, showing a certificate whether or not the server would take it.
func (w *world) dial(p *process, cert ...tls.Certificate) *grpc.ClientConn {
	w.t.Helper()
	cfg := &tls.Config{RootCAs: w.authority.Pool(), MinVersion: tls.VersionTLS13, Time: w.clock.now}
	if len(cert) > 0 {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert[0], nil }
	}
	conn, err := grpc.NewClient("passthrough:///"+p.address, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

func hello(change ...func(*managerv1.Hello)) *managerv1.Hello {
	h := &managerv1.Hello{ProtocolVersion: 1, InstanceId: "i", Version: "v", Tees: []string{"sim"}, Capacity: 4, Cpus: 8, MemoryBytes: 1 << 33}
	for _, f := range change {
		f(h)
	}
	return h
}

// join has a host join by a token.
func (w *world) join(p *process, name string) *host {
	w.t.Helper()
	key, der := newRequest(w.t)
	got, err := managerv1.NewEnrolServiceClient(w.dial(p)).Enrol(w.ctx, &managerv1.EnrolRequest{Token: w.token(name, time.Hour), CertificateRequest: der, Hello: hello()})
	if err != nil {
		w.t.Fatal(err)
	}
	return &host{w: w, id: computations.ID(got.GetHostId()), name: name, key: key, cert: pair(w.t, got.GetCertificate(), key), hello: hello()}
}

func pair(t *testing.T, text []byte, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key, Leaf: leaf}
}

var owner = sync.OnceValue(func() keys.Private {
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		panic(err)
	}
	return k
})

// computation makes a frozen one.
func (w *world) computation(tee manifest.TEE) computations.ID {
	w.t.Helper()
	k := owner().Public()
	m := manifest.Manifest{Version: manifest.Version, ID: "test", Name: "Test", TEE: tee, Algorithm: manifest.Algorithm{Type: manifest.Python, SHA256: manifest.Digest{1}, Size: 10, Provider: k}, Consumers: []keys.Public{k}}
	if _, err := rand.Read(m.Nonce[:]); err != nil {
		w.t.Fatal(err)
	}
	if tee != manifest.TEENone {
		m.AttestedTLS, m.Approvals = true, []keys.Public{k}
	}
	f, err := manifest.Freeze(m)
	if err != nil {
		w.t.Fatal(err)
	}
	c := computations.Computation{ID: computations.NewID(), Workspace: w.workspace, Creator: w.user, Created: w.clock.now(), Draft: computations.Draft{Name: "Test", TEE: tee},
		Revision: 1, Manifest: f.Raw, Digest: f.Digest, Frozen: w.clock.now()}
	w.update(func(x computations.Writer) error {
		if err := x.PutComputation(c); err != nil || len(f.Approvals) == 0 {
			return err
		}
		a, err := f.Approve(owner())
		if err != nil {
			return err
		}
		return x.PutApproval(computations.Approval{Computation: c.ID, User: w.user, Approval: a, At: w.clock.now()})
	})
	return c.ID
}

// run asks for one, as StartRun does.
func (w *world) run(computation computations.ID) computations.ID {
	w.t.Helper()
	w.numbers[computation]++
	run := computations.Run{ID: computations.NewID(), Computation: computation, Workspace: w.workspace, Number: w.numbers[computation], State: computations.RunQueued,
		By: w.user, TTL: time.Hour, Created: w.clock.now()}
	w.update(func(x computations.Writer) error {
		x.Signal(computations.TopicQueue)
		return x.PutRun(run)
	})
	return run.ID
}

func (w *world) newRun() computations.ID {
	w.t.Helper()
	return w.run(w.computation(manifest.TEESim))
}

// get reads a run.
func (w *world) get(id computations.ID) (run computations.Run) {
	w.t.Helper()
	w.view(func(r computations.Reader) (err error) { run, err = r.Run(id); return err })
	return run
}

func (w *world) getHost(id computations.ID) (h computations.Host) {
	w.t.Helper()
	w.view(func(r computations.Reader) (err error) { h, err = r.Host(id); return err })
	return h
}

// become waits until a run is in a state.
func (w *world) become(id computations.ID, state computations.RunState) computations.Run {
	w.t.Helper()
	var run computations.Run
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the run: %+v", run)
		}
	}()
	w.await(fmt.Sprintf("run %s to be %s", id, state), func(r computations.Reader) (_ bool, err error) {
		run, err = r.Run(id)
		return run.State == state, err
	})
	return run
}

// stop asks for a run's end, as StopRun does.
func (w *world) stop(id computations.ID) {
	w.t.Helper()
	w.update(func(x computations.Writer) error {
		run, err := x.LockRun(id)
		if err != nil {
			return err
		}
		run.StopAsked = w.clock.now()
		x.Signal(computations.HostTopic(run.Host))
		return x.PutRun(run)
	})
}

// changeHost does what an operator does.
func (w *world) changeHost(id computations.ID, change func(*computations.Host)) {
	w.t.Helper()
	w.update(func(x computations.Writer) error {
		h, err := x.Host(id)
		if err != nil {
			return err
		}
		change(&h)
		x.Signal(computations.HostTopic(id))
		x.Signal(computations.TopicQueue)
		return x.PutHost(h)
	})
}

// entries are all that a run told, in their order; the positions are checked.
func (w *world) entries(id computations.ID) []computations.Entry {
	w.t.Helper()
	var all []computations.Entry
	w.view(func(r computations.Reader) (err error) {
		all, err = r.Entries(id, computations.EntryFilter{})
		return err
	})
	for i, e := range all {
		if e.Position != int64(i+1) {
			w.t.Errorf("entry %d has position %d", i, e.Position)
		}
	}
	return all
}

// kinds are those of a run's events.
func (w *world) kinds(id computations.ID) (kinds []string) {
	w.t.Helper()
	for _, e := range w.entries(id) {
		if e.Type == computations.EntryEvent {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}
