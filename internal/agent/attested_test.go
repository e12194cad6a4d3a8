package agent_test

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// A machine of the tests' own: what it boots, and the host's simulated TEE.
var measured = [48]byte(bytes.Repeat([]byte{7}, 48))

func host(t testing.TB) *sim.Authority {
	t.Helper()
	a, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// instance is one VM's instance key.
var instance = sync.OnceValue(newInstance)

func newInstance() keys.Private {
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		panic(err)
	}
	return k
}

// attested is the test computation with attested TLS on the simulated TEE.
func attested(t testing.TB) manifest.Manifest {
	m := basic(t)
	m.TEE, m.AttestedTLS = manifest.TEESim, true
	return m
}

// inTEE gives the agent a TEE that was launched for its manifest.
func inTEE(a *sim.Authority) option {
	return func(c *agent.Config) {
		c.Attester = a.Attester(measured, c.Manifest.Digest)
		c.Instance = instance()
	}
}

// otherTEE is of another type than the one below.
type otherTEE struct {
	attest.Attester
	kind attest.Type
}

func (o otherTEE) Type() attest.Type { return o.kind }

// Each configuration is right in all but one thing.
func TestNewRefusesInATEE(t *testing.T) {
	a := host(t)
	ca, cert, key := newCA(t)
	tee := inTEE(a)
	approved := attested(t)
	approved.Approvals = []keys.Public{everybody().approver.Public()}
	huge := attested(t)
	huge.Datasets[0].Size = manifest.MaxInputSize
	for _, tt := range []struct {
		name   string
		m      manifest.Manifest
		change option
		why    vm.Refusal // empty: a fault of the caller's
		want   string
	}{
		{"no TEE", attested(t), func(c *agent.Config) { c.Attester = nil }, vm.RefusedTEE, `/tee "sim"`},
		{"another TEE", attested(t), func(c *agent.Config) { c.Attester = otherTEE{c.Attester, attest.SNP} }, vm.RefusedTEE, `TEE is "sev-snp"`},
		{"a simulation for the real one", func() manifest.Manifest { m := attested(t); m.TEE = manifest.TEESNP; return m }(), func(*agent.Config) {}, vm.RefusedTEE, `TEE is "sim"`},
		{"no instance key", attested(t), func(c *agent.Config) { c.Instance = keys.Private{} }, "", "instance key"},
		{"a certificate", attested(t), func(c *agent.Config) { c.TLS.ServerCert, c.TLS.ServerKey = cert, key }, vm.RefusedConfiguration, "leave them out"},
		{"client CAs", attested(t), func(c *agent.Config) { c.TLS.ClientCAs = ca }, vm.RefusedConfiguration, "leave them out"},
		{"an approval missing", approved, func(*agent.Config) {}, vm.RefusedApprovals, "/approvals lack"},
		{"no room", huge, func(*agent.Config) {}, vm.RefusedRoom, "more memory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := manifest.Freeze(tt.m)
			if err != nil {
				t.Fatal(err)
			}
			cfg := agent.Config{
				RunID: runID, Manifest: f, Storage: agent.FolderStorage(t.TempDir()), Runner: runner(succeed),
				Journal: journal.New(time.Now), Log: slog.New(slog.DiscardHandler),
			}
			tee(&cfg)
			tt.change(&cfg)
			_, err = agent.New(cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			var refused *vm.Refused
			if errors.As(err, &refused) != (tt.why != "") || refused != nil && refused.Why != tt.why {
				t.Errorf("got %v, want the refusal %q", err, tt.why)
			}
		})
	}
}
