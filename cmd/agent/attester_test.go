package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/tsm"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// simulatedHost signs reports about a VM that was launched for field.
type simulatedHost struct {
	guestv1.UnimplementedSimulatedTEEServiceServer
	attester attest.Attester
}

func (h *simulatedHost) Report(ctx context.Context, r *guestv1.ReportRequest) (*guestv1.ReportResponse, error) {
	e, err := h.attester.Attest(ctx, attest.ReportData(r.GetReportData()))
	return &guestv1.ReportResponse{Report: e.Report, Certificates: e.Endorsements.Certificates}, err
}

func startSimulatedTEE(t *testing.T, field [32]byte) (flags []string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := sim.LoadOrCreate(filepath.Join(dir, "sim"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "r")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	guestv1.RegisterSimulatedTEEServiceServer(server, &simulatedHost{attester: authority.Attester([48]byte{1}, field)})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return []string{"--simulated-report", "unix:" + path}
}

func simulatedManifest(m *manifest.Manifest) { m.TEE, m.AttestedTLS = manifest.TEESim, true }

func TestProcessOnTheSimulatedTEE(t *testing.T) {
	launch := aLaunch(t, simulatedManifest)
	digest := manifest.Sum(launch.GetManifest())
	shim, path := startShim(t, launch)
	ended, _ := startAgent(t, path, startSimulatedTEE(t, digest)...)
	a := nextEvent(t, shim).GetAttributes()
	if a["tee"] != "sim" || a["simulated"] != "true" || a["attested"] != "true" || a["manifest_digest"] != digest.String() || !strings.HasPrefix(a["instance"], "sha256:") {
		t.Errorf("agent.ready has %v", a)
	}
	close(shim.stop)
	if err := wait(t, ended); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
}

// Each launch is right in all but one thing. The host hears a word of the list
// and nothing else.
func TestRefusalsOnTheSimulatedTEE(t *testing.T) {
	for name, tt := range map[string]struct {
		manifest func(*manifest.Manifest)
		launch   func(*guestv1.Launch)
		field    func(*[32]byte)
		why      vm.Refusal
		want     string // in the agent's own error
	}{
		"launched for another manifest": {field: func(f *[32]byte) { f[0] ^= 1 }, why: vm.RefusedManifest, want: "launched for"},
		"a real TEE asked for":          {manifest: func(m *manifest.Manifest) { m.TEE = manifest.TEETDX }, why: vm.RefusedTEE, want: "/tee"},
		"an approval missing":           {manifest: func(m *manifest.Manifest) { m.Approvals = m.Consumers }, why: vm.RefusedApprovals, want: "/approvals"},
		"no room":                       {manifest: func(m *manifest.Manifest) { m.Algorithm.Size = manifest.MaxInputSize }, why: vm.RefusedRoom, want: "memory"},
		"client CAs":                    {launch: func(l *guestv1.Launch) { l.Config.ClientCaCerts = []byte("x") }, why: vm.RefusedConfiguration, want: "client CAs"},
		"a certificate": {launch: func(l *guestv1.Launch) {
			l.Config.ServerCert, l.Config.ServerKey = []byte("x"), []byte("y")
		}, why: vm.RefusedConfiguration, want: "server certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			launch := aLaunch(t, func(m *manifest.Manifest) {
				simulatedManifest(m)
				if tt.manifest != nil {
					tt.manifest(m)
				}
			})
			if tt.launch != nil {
				tt.launch(launch)
			}
			field := [32]byte(manifest.Sum(launch.GetManifest()))
			if tt.field != nil {
				tt.field(&field)
			}
			shim, path := startShim(t, launch)
			ended, _ := startAgent(t, path, startSimulatedTEE(t, field)...)
			e := nextEvent(t, shim)
			if a := e.GetAttributes(); e.GetKind() != vm.EventRefused || len(a) != 1 || a["reason"] != string(tt.why) || e.GetMessage() != tt.why.Text() {
				t.Errorf("first event %v; want %q alone", e, tt.why)
			}
			if err := wait(t, ended); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the agent ended with %v; want %q in it", err, tt.want)
			}
		})
	}
}

// Without a host that answers there is no report, and in time a refusal.
func TestNoSimulatedTEE(t *testing.T) {
	shim, path := startShim(t, aLaunch(t, simulatedManifest))
	ended, _ := startAgent(t, path)
	if e := nextEvent(t, shim); e.GetAttributes()["reason"] != string(vm.RefusedTEE) {
		t.Errorf("first event %v", e)
	}
	if err := wait(t, ended); err == nil {
		t.Error("the agent served")
	}
}

// aTEE is a machine's own.
type aTEE struct{ attest.Attester }

func TestFindTEE(t *testing.T) {
	none := func() (attest.Attester, error) { return nil, fmt.Errorf("no device: %w", tsm.ErrNone) }
	reports := func(context.Context) (net.Conn, error) { return nil, errors.New("not dialled here") }
	m := manifest.Frozen{Manifest: manifest.Manifest{TEE: manifest.TEESim}}
	tests := map[string]struct {
		detect  func() (attest.Attester, error)
		reports session.Dialer
		tee     manifest.TEE
		want    attest.Attester // by its type
		refused bool
	}{
		"a plain machine":                 {detect: none, reports: reports, tee: manifest.TEENone},
		"a TEE that is not there":         {detect: none, reports: reports, tee: manifest.TEESNP},
		"simulated":                       {detect: none, reports: reports, tee: manifest.TEESim, want: new(guest.SimulatedTEE)},
		"simulated, nobody does":          {detect: none, tee: manifest.TEESim},
		"a TEE":                           {detect: func() (attest.Attester, error) { return aTEE{}, nil }, reports: reports, tee: manifest.TEESNP, want: aTEE{}},
		"a TEE goes before simulation":    {detect: func() (attest.Attester, error) { return aTEE{}, nil }, reports: reports, tee: manifest.TEESim, want: aTEE{}},
		"a TEE is used, asked for or not": {detect: func() (attest.Attester, error) { return aTEE{}, nil }, reports: reports, tee: manifest.TEENone, want: aTEE{}},
		"a TEE that fails":                {detect: func() (attest.Attester, error) { return nil, errors.New("the device is busy") }, reports: reports, tee: manifest.TEESim, refused: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newComputation(nil, new(bytes.Buffer))
			c.detect, c.reports, c.launch.Manifest = tt.detect, tt.reports, m
			c.launch.Manifest.TEE = tt.tee
			err := c.findTEE(t.Context())
			defer c.closeTEE()
			var refused *vm.Refused
			if errors.As(err, &refused) != tt.refused || refused != nil && refused.Why != vm.RefusedReport {
				t.Fatalf("got %v", err)
			}
			if fmt.Sprintf("%T", c.attester) != fmt.Sprintf("%T", tt.want) {
				t.Errorf("found a %T; want a %T", c.attester, tt.want)
			}
		})
	}
}

// Whatever goes wrong where participants appraise the machine leaves as a word.
func TestErrorsLeaveAsWords(t *testing.T) {
	secret := errors.New("secret")
	for want, err := range map[vm.Refusal]error{
		vm.RefusedInternal: fmt.Errorf("phase: %w", secret),
		vm.RefusedSession:  fmt.Errorf("phase: %w: %w", session.ErrProtocol, secret),
		vm.RefusedNetwork:  fmt.Errorf("phase: %w", vm.Refuse(vm.RefusedNetwork, "%w", secret)),
	} {
		c := newComputation(nil, new(bytes.Buffer))
		c.launch.Manifest.TEE = manifest.TEESNP
		if message, reason := c.refusal(err); reason != string(want) || message != want.Text() {
			t.Errorf("%v: %q, %q", err, message, reason)
		}
		c.launch.Manifest.TEE = manifest.TEENone
		if message, reason := c.refusal(err); reason != err.Error() || message != err.Error() {
			t.Errorf("in a plain VM: %q, %q", message, reason)
		}
	}
}
