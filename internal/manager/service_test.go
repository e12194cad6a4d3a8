package manager

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/computations/fleet"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	envService  = "COCOS_TEST_SERVICE" // the address to listen at
	envDatabase = "COCOS_TEST_DATABASE"
	envURL      = "COCOS_TEST_DATABASE_URL"
	envData     = "COCOS_TEST_DATA"
)

// childService is the service's side for Managers in a process of its own.
func childService() error {
	hook, err := killHook()
	if err != nil {
		return err
	}
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Path: os.Getenv(envDatabase), URL: os.Getenv(envURL)})
	if err != nil {
		return err
	}
	a, err := authority.Open(authority.Config{Dir: os.Getenv(envData)})
	if err != nil {
		return err
	}
	f, err := fleet.New(fleet.Config{Store: s, Authority: a, Step: hook, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(os.Getenv(envService))
	if err != nil {
		return err
	}
	own, err := a.Server(host)
	if err != nil {
		return err
	}
	server := grpc.NewServer(append(fleet.ServerOptions(), grpc.Creds(credentials.NewTLS(a.TLS(own.Certificate))))...)
	f.Register(server)
	var l net.Listener
	for range 100 { // the one that was killed may not be quite gone
		if l, err = net.Listen("tcp", os.Getenv(envService)); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	go func() { _ = f.Run(ctx) }()
	return server.Serve(l)
}

// showIdentity has a Manager show a host's certificate, as one that has joined.
func showIdentity(cfg *Config, dir string) {
	plain := cfg.Server.TLS
	cfg.Server.TLS = func() (*tls.Config, error) {
		t, err := plain()
		if err != nil {
			return nil, err
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, vm.EnrolledCertificate), filepath.Join(dir, vm.EnrolledKey))
		t.Certificates = []tls.Certificate{pair}
		return t, err
	}
}

// serviceLab is a lab whose server is the service, in a process that may be
// killed, with two hosts that could take the one run that waits.
type serviceLab struct {
	*lab
	// other is the second host's Manager.
	other  *lab
	config store.Config
	data   string
	run    computations.ID
	// looker is the test's own connection to the database.
	looker *store.Store
}

// agentScript is what the fake agents tell.
const agentScript = "agent.ready,agent.state:Running,agent.state:ResultReady,agent.state:Released"

func newServiceLab(t *testing.T, config store.Config, env ...string) *serviceLab {
	t.Helper()
	l := &serviceLab{lab: newLab(t, nil, append([]string{envAgent + "=" + agentScript}, env...)...), config: config}
	l.data = filepath.Join(l.dir, "data")
	l.identity = filepath.Join(l.dir, "identity")
	second := *l.lab
	l.other = &second
	l.other.identity, l.other.state = filepath.Join(l.dir, "identity2"), filepath.Join(l.dir, "2", "s")
	for _, dir := range []string{l.data, l.identity, l.other.identity, filepath.Dir(l.other.state)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	a, err := authority.Open(authority.Config{Dir: l.data})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "ca.pem"), a.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	// An address that the next process of the service can have, too.
	free, err := net.Listen("tcp", ownAddress(l.dir).String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	l.address, l.other.address = free.Addr().String(), free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	l.fill(a)
	return l
}

// joined makes a host's files and its row, as if it had joined.
func joined(t *testing.T, a *authority.Authority, name, dir string) computations.Host {
	t.Helper()
	key, text, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := certificateRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	id := computations.NewID()
	cert, err := a.SignHost(string(id), der)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{vm.EnrolledKey: text, vm.EnrolledCertificate: cert.PEM} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return computations.Host{ID: id, Name: name, Serial: cert.Serial, CertificateExpires: cert.Expires, Enrolled: time.Now()}
}

// fill makes the hosts, and the run, as if somebody had asked for it.
func (l *serviceLab) fill(a *authority.Authority) {
	l.t.Helper()
	l.run = computations.NewID()
	first, second := joined(l.t, a, "rack-1", l.identity), joined(l.t, a, "rack-2", l.other.identity)
	m := testManifest()
	if _, err := rand.Read(m.Nonce[:]); err != nil {
		l.t.Fatal(err)
	}
	frozen := freeze(l.t, m)
	s, err := store.Open(l.ctx, l.config)
	if err != nil {
		l.t.Fatal(err)
	}
	now := time.Now()
	user, workspace, computation := computations.NewID(), computations.NewID(), computations.NewID()
	err = s.Update(l.ctx, func(w computations.Writer) error {
		return errors.Join(
			w.PutUser(computations.User{ID: user, Email: "a@example.org", Created: now}),
			w.PutWorkspace(computations.Workspace{ID: workspace, Name: "w", Created: now}),
			w.PutHost(first), w.PutHost(second),
			w.PutComputation(computations.Computation{ID: computation, Workspace: workspace, Creator: user, Created: now,
				Draft: computations.Draft{Name: "Test", TEE: manifest.TEENone}, Revision: 1, Manifest: frozen.Raw, Digest: frozen.Digest, Frozen: now}),
			w.PutRun(computations.Run{ID: l.run, Computation: computation, Workspace: workspace, Number: 1, State: computations.RunQueued, By: user, Created: now}))
	})
	if err := errors.Join(err, s.Close()); err != nil {
		l.t.Fatal(err)
	}
}

// serve starts the service; kill as in envKill, or "".
func (l *serviceLab) serve(kill string) *process {
	l.t.Helper()
	return l.program("service.log", envService+"="+l.address, envDatabase+"="+l.config.Path, envURL+"="+l.config.URL, envData+"="+l.data, envKill+"="+kill)
}

// view looks into the database beside the service.
func (l *serviceLab) view(f func(computations.Reader) error) {
	l.t.Helper()
	if l.looker == nil {
		c := l.config
		c.ReadOnly = true
		s, err := store.Open(l.ctx, c)
		if err != nil {
			l.t.Fatal(err)
		}
		l.looker = s
		l.t.Cleanup(func() { _ = s.Close() })
	}
	if err := l.looker.View(l.ctx, f); err != nil {
		l.t.Fatal(err)
	}
}

// finished waits for the run's end and checks that everything has happened once:
// one VM, one request that counted, each event in its place.
func (l *serviceLab) finished() {
	l.t.Helper()
	var run computations.Run
	for !run.State.Ended() && l.ctx.Err() == nil {
		l.view(func(r computations.Reader) (err error) { run, err = r.Run(l.run); return err })
		time.Sleep(20 * time.Millisecond)
	}
	if run.State != computations.RunFinished || run.AgentState != "Released" {
		l.t.Errorf("%+v", run)
	}
	if n := len(l.shims()); n != 1 {
		l.t.Errorf("%d shims owned the VM", n)
	}
	var entries []computations.Entry
	l.view(func(r computations.Reader) (err error) {
		entries, err = r.Entries(l.run, computations.EntryFilter{})
		return err
	})
	last := map[string]int64{}
	var kinds []string
	for i, e := range entries {
		if e.Position != int64(i+1) {
			l.t.Errorf("entry %d has position %d", i, e.Position)
		}
		if e.Type != computations.EntryEvent {
			continue
		}
		if e.Sequence != last[e.Source]+1 {
			l.t.Errorf("%s: event %d comes where %d should", e.Source, e.Sequence, last[e.Source]+1)
		}
		last[e.Source] = e.Sequence
		kinds = append(kinds, e.Kind)
	}
	for _, kind := range []string{"run.offered", vm.EventAccepted, vm.EventStarting, vm.EventReady, vm.EventExited, vm.EventRemoved, "run.finished"} {
		if n := count(kinds, kind); n != 1 {
			l.t.Errorf("%s came %d times", kind, n)
		}
	}
	if count(kinds, vm.EventState) != 3 || slices.Contains(kinds, vm.EventLost) || kinds[len(kinds)-1] != "run.finished" {
		l.t.Errorf("%q", kinds)
	}
	l.empty()
	l.other.empty()
}

// servicePoints are the service's steps, each with the times at which it dies
// there: between the choice of a host and the request, between what arrives, its
// commit and its acknowledgement. There are nine events, whatever the batches in
// which they are committed: each point is reached.
var servicePoints = map[string][]int{
	"host.connected":   {1, 2},
	"queue.offered":    {1},
	"request.sending":  {1},
	"item.received":    {1, 2, 5},
	"event.committing": {1, 2, 5, 9},
	"event.committed":  {1, 2, 5, 9},
	"ack.sent":         {1, 5, 9},
}

// TestServiceKilledAtEachStep: a run that waits is handed over once, to one of two
// hosts, and all that becomes of it is told once, whenever the service dies.
func TestServiceKilledAtEachStep(t *testing.T) {
	storetest.Each(t, func(t *testing.T, fresh func(testing.TB) store.Config) {
		for point, times := range servicePoints {
			for _, n := range times {
				t.Run(fmt.Sprint(point, "-", n), func(t *testing.T) {
					l := newServiceLab(t, fresh(t), envEnds+"=yes")
					l.spawn("")
					l.other.spawn("")
					l.serve(fmt.Sprint(point, " ", n)).killed(t)
					l.serve("")
					l.finished()
				})
			}
		}
	})
}

// TestManagerKilledUnderTheService at each of its steps: the same holds.
func TestManagerKilledUnderTheService(t *testing.T) {
	for _, p := range points {
		for _, n := range p.times {
			t.Run(p.name+"-"+n, func(t *testing.T) {
				l := newServiceLab(t, storetest.SQLite(t), envEnds+"=yes")
				l.serve("")
				l.spawn(p.name + " " + n).killed(t)
				// The other host would take it gladly.
				l.other.spawn("")
				l.spawn("")
				l.finished()
			})
		}
	}
}

// TestBothKilledUnderEachOther: Manager and service die, the one between two steps
// of its own, the other at whatever it does then.
func TestBothKilledUnderEachOther(t *testing.T) {
	for _, c := range [][2]string{
		{"run.committed 1", "item.received 1"}, {"run.replied 1", "event.committing 3"}, {"event.sent 4", "event.committed 4"},
		{"ack.received 3", "ack.sent 5"}, {"run.ended 1", "item.received 9"},
	} {
		t.Run(c[0]+", "+c[1], func(t *testing.T) {
			l := newServiceLab(t, storetest.SQLite(t), envEnds+"=yes")
			service := l.serve(c[1])
			manager := l.spawn(c[0])
			// Whichever dies first may keep the other from its point.
			ended := make(chan *process, 2)
			for _, p := range []*process{service, manager} {
				go func() { _ = p.cmd.Wait(); ended <- p }()
			}
			first := <-ended
			if first == service {
				_ = manager.cmd.Process.Kill()
			} else {
				_ = service.cmd.Process.Kill()
			}
			<-ended
			l.serve("")
			l.other.spawn("")
			l.spawn("")
			l.finished()
		})
	}
}
