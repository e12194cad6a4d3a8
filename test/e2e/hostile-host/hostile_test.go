// Package hostile shows that a guest refuses to go on in a VM whose host did not
// launch what it claims to have: the test is the host, with a shim of its own.
package hostile

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/shim"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

// attested is a manifest whose only participant has approved it.
func attested(t *testing.T, id string) (manifest.Frozen, []manifest.Approval) {
	t.Helper()
	owner, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Freeze(manifest.Manifest{
		Version: manifest.Version, ID: id, Name: id, Nonce: manifest.Nonce{1}, TEE: manifest.TEESim, AttestedTLS: true,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Sum(nil), Size: 1, Provider: owner.Public()},
		Consumers: []keys.Public{owner.Public()}, Approvals: []keys.Public{owner.Public()},
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Approve(owner)
	if err != nil {
		t.Fatal(err)
	}
	return m, []manifest.Approval{a}
}

// TestRefusedBeforeItServes: each host is honest but for one thing.
func TestRefusedBeforeItServes(t *testing.T) {
	m, approvals := attested(t, "approved")
	other, others := attested(t, "other")
	for _, tt := range []struct {
		name string
		lie  func(*testing.T, *vm.Spec, *shim.Config)
		why  vm.Refusal
	}{
		{"another manifest than launched for", func(_ *testing.T, s *vm.Spec, _ *shim.Config) {
			s.Manifest, s.Approvals = other.Raw, others
		}, vm.RefusedManifest},
		{"an approval missing", func(_ *testing.T, s *vm.Spec, _ *shim.Config) { s.Approvals = nil }, vm.RefusedApprovals},
		{"a server certificate of the host's", func(t *testing.T, s *vm.Spec, _ *shim.Config) {
			s.Agent.ServerCert, s.Agent.ServerKey = harness.Certificate(t)
		}, vm.RefusedConfiguration},
		{"the report of another VM", func(t *testing.T, s *vm.Spec, c *shim.Config) {
			c.NewHost = replay(t, s.Machine.TEE.Root, m.Digest, func(data attest.ReportData) attest.ReportData { data[0] ^= 1; return data })
		}, vm.RefusedReport},
		{"a report of a VM of another manifest", func(t *testing.T, s *vm.Spec, c *shim.Config) {
			c.NewHost = replay(t, s.Machine.TEE.Root, other.Digest, func(data attest.ReportData) attest.ReportData { return data })
		}, vm.RefusedManifest},
		{"a console", func(t *testing.T, s *vm.Spec, _ *shim.Config) {
			img, err := hal.Load(harness.Root() + "/cmd/manager/img")
			if err != nil {
				t.Fatal(err)
			}
			s.Machine.Boot.CommandLine = hal.CommandLine(img, false)
		}, vm.RefusedGuest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := harness.StartSpec(t, m, func(spec *vm.Spec, c *shim.Config) {
				spec.Approvals = approvals
				tt.lie(t, spec, c)
			})
			if e := s.Event(vm.EventRefused); e.GetAttributes()["reason"] != string(tt.why) || e.GetMessage() != tt.why.Text() {
				t.Errorf("the agent refuses with %v; want %q, %q", e, tt.why, tt.why.Text())
			}
			s.Event(vm.EventExited)
			s.Never(vm.EventReady)
		})
	}
}

// TestRefusedBeforeItDials: what a guest finds wrong with its machine it can tell
// nobody. It powers off, and the shim says what that means.
func TestRefusedBeforeItDials(t *testing.T) {
	m, approvals := attested(t, "approved")
	for _, tt := range []struct {
		name string
		lie  func(*testing.T, *vm.Spec)
	}{
		{"a module asked for", func(_ *testing.T, s *vm.Spec) { s.Machine.Boot.CommandLine += " modprobe=vfat" }},
		{"a device that is not expected", func(t *testing.T, s *vm.Spec) {
			x := harness.NewExchange(t, s.Machine.QEMU)
			x.Set(t, "", "", "-device virtio-rng-pci")
			s.Machine.QEMU = x.Path
		}},
		{"another runtime disk", func(t *testing.T, s *vm.Spec) {
			s.Machine.Runtime = harness.Flipped(t, s.Machine.Runtime)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := harness.StartSpec(t, m, func(spec *vm.Spec, _ *shim.Config) {
				spec.Approvals = approvals
				tt.lie(t, spec)
			})
			e := s.Event(vm.EventExited)
			if e.GetAttributes()["reason"] != "guest-shutdown" || !strings.Contains(e.GetMessage(), "the guest refused to go on before its agent dialled") {
				t.Errorf("got %v", e)
			}
			s.Never(vm.EventRefused)
			s.Never(vm.EventReady)
		})
	}
}

// replay makes a host that answers the guest's requests with reports of a VM
// that was launched for hostData; change is what it does to their report data.
func replay(t *testing.T, root string, hostData manifest.Digest, change func(attest.ReportData) attest.ReportData) func(vm.Spec, vm.Dir, *slog.Logger) (shim.Host, []*os.File, error) {
	return func(spec vm.Spec, dir vm.Dir, log *slog.Logger) (shim.Host, []*os.File, error) {
		host, files, err := shim.NewHost(spec, dir, log)
		if err != nil {
			return nil, nil, err
		}
		authority, err := sim.LoadOrCreate(root)
		if err != nil {
			return nil, nil, errors.Join(err, host.Close())
		}
		return &liar{Host: host, t: t, attester: authority.Attester([48]byte{1}, hostData), change: change}, files, nil
	}
}

// liar takes the port of reports from the shim.
type liar struct {
	shim.Host
	guestv1.UnimplementedSimulatedTEEServiceServer
	t        *testing.T
	attester attest.Attester
	change   func(attest.ReportData) attest.ReportData
	server   *grpc.Server
	served   sync.WaitGroup
}

// Listen gives the shim a port that no guest reaches in the place of that one.
func (l *liar) Listen(port uint32) (net.Listener, error) {
	real, err := l.Host.Listen(port)
	if err != nil || port != vm.ReportPort {
		return real, err
	}
	l.server = grpc.NewServer()
	guestv1.RegisterSimulatedTEEServiceServer(l.server, l)
	l.served.Go(func() { _ = l.server.Serve(real) }) // it ends with the VM
	return net.Listen("tcp", "127.0.0.1:0")
}

func (l *liar) Report(ctx context.Context, r *guestv1.ReportRequest) (*guestv1.ReportResponse, error) {
	e, err := l.attester.Attest(ctx, l.change(attest.ReportData(r.GetReportData())))
	if err != nil {
		return nil, err
	}
	return &guestv1.ReportResponse{Report: e.Report, Certificates: e.Endorsements.Certificates, Crls: e.Endorsements.CRLs}, nil
}

func (l *liar) Close() error {
	if l.server != nil {
		l.server.Stop()
		l.served.Wait()
	}
	return l.Host.Close()
}
