// Package agent is the computation inside the VM: a state machine, the inputs
// that it takes, the one run of the algorithm, and the gRPC API for the
// participants.
//
// Invariants:
//   - Nobody but the participants of the one manifest is heard, each for what
//     its role allows (authorise), on its own connection (callauth). Strangers
//     get no memory worth the name (door).
//   - An input is in its place only with the manifest's size and digest. What
//     can't become that leaves no trace; what broke off is kept and goes on.
//   - Memory does not grow with the size of inputs or results: uploads stream to
//     Storage, or to the scratch disk, while they are hashed, and the result archive is packed anew for
//     each download, which its determinism allows.
//   - The state changes by the table in state.go alone, each change is an event.
//   - With attested TLS nobody is heard who has not been given evidence of this
//     VM, and nothing that a run request brings takes part in it. An instance
//     key that was made in the VM names it in calls and receipts.
//   - What an algorithm prints or leaves goes to consumers only, to each what the
//     manifest releases to it. Events and logs, which the host reads, say no more
//     than that it succeeded or failed; which limit it broke is for participants.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Config of an agent. Required are all but TLS, Approvals, Scratch, Dial, Release,
// Sleep, and, in a plain VM, Attester and Instance.
type Config struct {
	RunID    string
	Manifest manifest.Frozen
	// Approvals are verified by New.
	Approvals []manifest.Approval
	TLS       TLSConfig
	// Attester speaks for the VM's TEE, whose launch field was compared with the
	// manifest; nil in a plain VM.
	Attester attest.Attester
	// Instance is the VM's instance key: made when it booted, it names this VM
	// among all that ever run the manifest.
	Instance keys.Private
	Storage  Storage
	// Scratch is where large inputs are kept; nil: they are kept in Storage.
	Scratch Scratch
	// Dial makes the connections to datasets' sources; nil: a net.Dialer does.
	Dial source.Dial
	// Release asks the key broker of a source, once, for what source.ParseSecret
	// reads; a *keybroker.Problem that may pass is tried again, and any other error
	// is told to the dataset's provider. nil: with evidence of Attester, if any.
	Release func(ctx context.Context, s manifest.Source) ([]byte, error)
	// Sleep waits between two tries of a source; nil: on the real clock.
	Sleep   func(ctx context.Context, d time.Duration) error
	Runner  Runner
	Journal *journal.Journal
	// Log leaves the VM.
	Log *slog.Logger
}

// TLSConfig is what the creator of the run chose, in PEM. Without ServerCert
// and ServerKey the agent makes its own; with ClientCAs TLS is mutual.
type TLSConfig struct {
	ServerCert, ServerKey, ClientCAs []byte
}

// Agent runs one computation. Use New and then Serve once.
type Agent struct {
	agentv1.UnimplementedAgentServiceServer

	cfg      Config
	dirs     folders
	identity atls.Identity
	clients  *x509.CertPool
	prover   *atls.Prover // while Serve runs; nil: nobody is shown evidence

	runCtx  context.Context // of the algorithm
	stopRun context.CancelFunc
	running sync.WaitGroup
	pullCtx context.Context // of what is taken from sources
	endPull context.CancelFunc
	pulls   sync.WaitGroup
	// pullPlaces bounds how many are taken at once.
	pullPlaces chan struct{}
	closing    chan struct{} // closed when Serve ends: followers go home

	mu     sync.Mutex
	state  State
	reason Reason
	limit  string // that was exceeded; participants' to know
	inputs []*input
	// regions of the scratch disk that are in their places, and how often one was made.
	regions  []Region
	attempts int
	// results by the fingerprints of the consumers that get them; nil: none yet.
	results map[string]*result
	taken   map[string]bool // consumers, by fingerprint, that confirmed
	// ended is how the run ended; nil before.
	ended   *ending
	receipt *making // nil until it is asked for
}

// New checks that the computation can and may be run, and prepares it. Nothing
// is left behind after an error.
func New(cfg Config) (*Agent, error) {
	m := &cfg.Manifest
	if cfg.RunID == "" || m.Digest == (manifest.Digest{}) || cfg.Storage == nil || cfg.Runner == nil || cfg.Journal == nil || cfg.Log == nil {
		return nil, errors.New("agent: the configuration is incomplete")
	}
	if err := checkTEE(&cfg); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if err := m.CheckApprovals(cfg.Approvals); err != nil {
		return nil, vm.Refuse(vm.RefusedApprovals, "agent: %w", err)
	}
	a := &Agent{
		cfg:     cfg,
		closing: make(chan struct{}),
		state:   AwaitingInputs,
		inputs:  newInputs(&m.Manifest),
		taken:   map[string]bool{},

		pullPlaces: make(chan struct{}, maxPulls),
	}
	if err := a.prepareTLS(); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	room, err := cfg.Storage.Room()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if err := checkRoom(a.inputs, &m.Manifest, room, cfg.Scratch); err != nil {
		return nil, vm.Refuse(vm.RefusedRoom, "agent: %w", err)
	}
	if a.dirs, err = makeFolders(cfg.Storage.Dir()); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a.runCtx, a.stopRun = context.WithCancel(context.Background())
	a.pullCtx, a.endPull = context.WithCancel(context.Background())
	return a, nil
}

func (a *Agent) prepareTLS() (err error) {
	t := a.cfg.TLS
	if len(t.ServerCert) == 0 && len(t.ServerKey) == 0 {
		a.identity, err = atls.NewIdentity()
	} else {
		a.identity, err = atls.LoadIdentity(t.ServerCert, t.ServerKey)
	}
	if err != nil {
		return err
	}
	if len(t.ClientCAs) > 0 {
		a.clients, err = atls.LoadCAs(t.ClientCAs)
	}
	return err
}

// Key is the SHA-256 of the agent's TLS key, as atls.FormatKey writes it.
func (a *Agent) Key() string { return a.identity.Key() }

// graceful is how long calls may go on after Serve was told to stop.
const graceful = 2 * time.Second

// Serve serves the participants on l, which it closes, until ctx ends; then the
// computation is stopped, whatever it was doing, and nil is returned when all of
// it has ended. The agent's folders are gone then.
func (a *Agent) Serve(ctx context.Context, l net.Listener) (err error) {
	creds, done, err := a.credentials()
	if err != nil {
		l.Close()
		return fmt.Errorf("agent: %w", err)
	}
	gate := callauth.Gate{Digest: a.cfg.Manifest.Digest, Admit: func(ctx context.Context, c callauth.Caller, method string) error {
		if err := a.admitConnection(ctx, method); err != nil {
			return err
		}
		if err := a.admit(c, method, nil); err != nil {
			return err
		}
		letStay(ctx, c)
		return nil
	}}
	options := append(bulk.ServerOptions(), gate.ServerOptions()...)
	server := grpc.NewServer(append(options, grpc.Creds(creds), grpc.WaitForHandlers(true))...)
	agentv1.RegisterAgentServiceServer(server, a)
	a.startPulls() // before anybody could upload the same
	served := make(chan error, 1)
	go func() { served <- server.Serve(newDoor(l)) }()

	digest := a.cfg.Manifest.Digest.String()
	a.cfg.Journal.Emit(vm.EventReady, "the agent awaits its participants", a.readyAttributes())
	a.cfg.Log.Info("serving", "address", l.Addr().String(), "agent_key", a.Key(), "manifest_digest", digest)

	select {
	case <-ctx.Done():
	case err = <-served:
		served <- nil
		err = fmt.Errorf("agent: serving: %w", err)
	}
	a.stop()
	done() // or else the server would wait for whoever waits for evidence
	stopServer(server)
	<-served
	for _, in := range a.inputs {
		if in.sink != nil { // no handler is left that could use it
			a.drop(in)
		}
	}
	a.releaseRegions()
	return errors.Join(err, a.dirs.remove())
}

// stop ends the computation and waits for the algorithm.
func (a *Agent) stop() {
	a.mu.Lock()
	if err := a.fire(stopAsked, NoReason); err != nil {
		a.cfg.Log.Error("stopping", "error", err)
	}
	a.mu.Unlock()
	a.endPull()
	a.pulls.Wait()
	a.stopRun()
	a.running.Wait()
	close(a.closing)
}

// stopServer lets calls end by themselves for a while.
func stopServer(s *grpc.Server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GracefulStop()
	}()
	select {
	case <-done:
	case <-time.After(graceful):
		s.Stop()
		<-done
	}
}

// admit refuses what the manifest does not give the caller.
func (a *Agent) admit(c callauth.Caller, method string, input *inputRef) error {
	m := &a.cfg.Manifest.Manifest
	reason := authorise(m, method, c, input)
	// Lines about strangers would let them push all others out of the log.
	if reason != "" && reason != rpcerr.Signature {
		a.cfg.Log.Warn("refused a call", "method", method, "reason", string(reason), "caller", c.Key.Fingerprint())
	}
	return refusal(reason, m, c, input)
}

// internal logs an error of the agent's own and answers without its details,
// which may name what is private.
func (a *Agent) internal(doing string, err error) error {
	a.cfg.Log.Error("internal error", "doing", doing, "error", err.Error())
	return rpcerr.New(codes.Internal, rpcerr.Detail{
		Reason: rpcerr.InternalFailure, Hint: "the agent's log says more; create a new run",
	}, "%s failed in the agent", doing)
}
