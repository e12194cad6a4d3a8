package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// party is one participant in all roles, with what its CLI reads.
type party struct {
	key     keys.Private
	keyFile string
}

func (l *lab) newParty() (party, error) {
	key, err := keys.Generate(keys.Ed25519)
	if err != nil {
		return party{}, err
	}
	b, err := key.PEM()
	if err != nil {
		return party{}, err
	}
	p := party{key: key, keyFile: l.path("owner.pem")}
	return p, os.WriteFile(p.keyFile, b, 0o600)
}

// manifest freezes a computation of that party alone.
func (p party) manifest(algorithm manifest.Algorithm, datasets ...manifest.Dataset) (manifest.Frozen, error) {
	return p.describe("", algorithm, datasets...)
}

// describe freezes one with a description.
func (p party) describe(description string, algorithm manifest.Algorithm, datasets ...manifest.Dataset) (manifest.Frozen, error) {
	m := manifest.Manifest{
		Version: manifest.Version, ID: "bench", Name: "benchmark", Description: description, TEE: manifest.TEENone,
		Algorithm: algorithm, Datasets: datasets, Consumers: []keys.Public{p.key.Public()},
	}
	if _, err := rand.Read(m.Nonce[:]); err != nil {
		return manifest.Frozen{}, err
	}
	m.Algorithm.Provider = p.key.Public()
	for i := range m.Datasets {
		m.Datasets[i].Provider = p.key.Public()
	}
	return manifest.Freeze(m)
}

// agent is a running cocos-agent outside a VM, with the session that a shim
// would have with it.
type agent struct {
	process *process
	session *guestSession
	dir     string
	address string
	key     string // what a CLI pins
	memory  memory
}

// manifestFile is what a CLI is given.
func (a *agent) manifestFile() string { return filepath.Join(a.dir, "manifest.json") }

// startAgent starts an agent for m and waits until it is ready.
func (l *lab) startAgent(ctx context.Context, m manifest.Frozen) (a *agent, err error) {
	a = &agent{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting an agent: %w", err), a.stop())
			a = nil
		}
	}()
	if a.dir, err = os.MkdirTemp(l.dir, "agent-"); err != nil {
		return a, err
	}
	port, err := freePort()
	if err != nil {
		return a, err
	}
	a.address = fmt.Sprintf("127.0.0.1:%d", port)
	launch := &guestv1.Launch{
		RunId: uuid.NewString(), Manifest: m.Raw,
		Config: &guestv1.AgentConfig{Port: uint32(port), LogLevel: "info"},
	}
	socket := filepath.Join(a.dir, "session.sock")
	if a.session, err = serveGuestSession(socket, launch); err != nil {
		return a, err
	}
	if err := os.WriteFile(a.manifestFile(), m.Raw, 0o600); err != nil {
		return a, err
	}
	work := filepath.Join(a.dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return a, err
	}
	a.process, err = l.start("agent", nil, agentBinary, "--session", "unix:"+socket, "--dir", work, "--listen", a.address)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the agent was not ready after a minute"))
	defer cancel()
	ready, err := a.session.await(ctx, a.process, func(e *eventv1.Event) (bool, error) {
		return e.GetKind() == vm.EventReady, nil
	})
	if err != nil {
		return a, err
	}
	a.key = ready.GetAttributes()["agent_key"]
	if a.memory, err = watchMemory(a.process.pid()); err != nil {
		return a, err
	}
	return a, nil
}

// awaitState waits for a state of the agent's; the state Failed is an error.
func (a *agent) awaitState(ctx context.Context, state string) error {
	_, err := a.session.await(ctx, a.process, func(e *eventv1.Event) (bool, error) {
		to := e.GetAttributes()["to"]
		if e.GetKind() == vm.EventState && to == "Failed" && state != to {
			return false, fmt.Errorf("the computation failed: %s %v", e.GetMessage(), e.GetAttributes())
		}
		return e.GetKind() == vm.EventState && to == state, nil
	})
	return err
}

// stop stops the agent and removes all that it stored.
func (a *agent) stop() error {
	var errs []error
	if a.process != nil {
		errs = append(errs, a.process.stop())
	}
	if a.session != nil {
		a.session.close()
	}
	if a.dir != "" {
		errs = append(errs, os.RemoveAll(a.dir))
	}
	return errors.Join(errs...)
}

// freePort is one that nobody listens on; should somebody take it before it is
// used, the row fails and says so.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
