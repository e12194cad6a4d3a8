package console

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// agentOf is the real agent of a run, with the simulated TEE, in this process instead
// of a VM. What it tells stays with it: the journey tells the host's events itself.
type agentOf struct {
	t    *testing.T
	port int
	// journal is what it would tell the shim.
	journal *journal.Journal
	// policy accepts it, as its participants would have made it.
	policy string
}

// idle is a runner whose turn never comes: not all inputs do.
type idle struct{}

func (idle) Run(context.Context, runtime.Job) (runtime.Outcome, error) {
	return runtime.Outcome{}, errors.New("the algorithm was started")
}

// startAgent begins one for a run; it ends with the test.
func startAgent(t *testing.T, request *managerv1.RunRequest) *agentOf {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := manifest.Parse(request.GetManifest())
	check(err)
	authority, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	check(err)
	measurement := [48]byte(bytes.Repeat([]byte{0xc0}, 48))
	j := journal.New(time.Now)
	cfg := agent.Config{
		RunID: request.GetRunId(), Manifest: f, Storage: agent.FolderStorage(t.TempDir()), Runner: idle{}, Journal: j,
		Log: slog.New(j.Handler(slog.LevelInfo)), Attester: authority.Attester(measurement, f.Digest),
	}
	cfg.Instance, err = keys.Generate(keys.Ed25519)
	check(err)
	for _, a := range request.GetApprovals() {
		k, err := keys.ParsePublic(a.GetPublicKey())
		check(err)
		cfg.Approvals = append(cfg.Approvals, manifest.Approval{PublicKey: k, Signature: a.GetSignature()})
	}
	a, err := agent.New(cfg)
	check(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})
	_, root := authority.Root()
	policy, err := attest.Policy{Version: attest.PolicyVersion, Simulated: &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{measurement[:]},
	}}.Bytes()
	check(err)
	return &agentOf{t, l.Addr().(*net.TCPAddr).Port, j, string(policy)}
}

// has wants the agent to have received an input with this name.
func (a *agentOf) has(name string) {
	a.t.Helper()
	told := a.journal.EventsAfter(0)
	for _, e := range told {
		if e.Kind == vm.EventInput && e.Attributes["name"] == name {
			return
		}
	}
	a.t.Errorf("the agent hasn't received %s, and tells %+v", name, told)
}
