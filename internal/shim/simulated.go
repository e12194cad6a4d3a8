package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// maxReportRequest bounds a request for a report, in bytes; one has some 70.
const maxReportRequest = 4 << 10

// simulate plays the TEE of a VM whose TEE is the simulated one: it measures
// what QEMU is about to be given and signs reports for the guest, until the
// returned function is called. For other VMs there is nothing to do.
func (s *shim) simulate(host Host) (stop func(), err error) {
	tee := s.spec.Machine.TEE
	if tee == nil || tee.Kind != vm.Simulated {
		return func() {}, nil
	}
	reporter, err := s.newReporter(tee)
	if err != nil {
		return nil, fmt.Errorf("simulating a TEE: %w", err)
	}
	l, err := host.Listen(vm.ReportPort)
	if err != nil {
		return nil, fmt.Errorf("simulating a TEE: %w", err)
	}
	return s.serveReports(l, reporter), nil
}

func (s *shim) newReporter(tee *vm.TEE) (*reporter, error) {
	if n, want := len(tee.LaunchField), tee.Kind.FieldSize(); n != want {
		return nil, fmt.Errorf("machine.tee.launch_field has %d bytes; expected %d", n, want)
	}
	boot := s.spec.Machine.Boot
	kernel, err := os.ReadFile(boot.Kernel)
	if err != nil {
		return nil, fmt.Errorf("measuring the kernel: %w", err)
	}
	initrd, err := os.ReadFile(boot.Initrd)
	if err != nil {
		return nil, fmt.Errorf("measuring the initial RAM disk: %w", err)
	}
	digest, err := measure.Simulated(measure.Launch{
		Kernel: kernel, Initrd: initrd, CommandLine: boot.CommandLine, VCPUs: s.spec.Machine.VCPUs,
	})
	if err != nil {
		return nil, err
	}
	authority, err := sim.LoadOrCreate(tee.Root)
	if err != nil {
		return nil, err
	}
	_, root := authority.Root()
	s.Log.Warn("this VM's TEE is SIMULATED and protects nothing",
		"launch_digest", fmt.Sprintf("%x", digest), "launch_field", fmt.Sprintf("%x", tee.LaunchField), "root_sha256", fmt.Sprintf("%x", root))
	return &reporter{attester: authority.Attester(digest, [32]byte(tee.LaunchField))}, nil
}

// reporter answers the guest.
type reporter struct {
	guestv1.UnimplementedSimulatedTEEServiceServer
	attester attest.Attester
}

// Report implements guest.proto.
func (r *reporter) Report(ctx context.Context, req *guestv1.ReportRequest) (*guestv1.ReportResponse, error) {
	if n := len(req.GetReportData()); n != attest.ReportDataSize {
		return nil, status.Errorf(codes.InvalidArgument, "report_data has %d bytes; expected %d", n, attest.ReportDataSize)
	}
	e, err := r.attester.Attest(ctx, attest.ReportData(req.GetReportData()))
	if err != nil {
		return nil, status.Errorf(codes.Internal, "making a simulated report: %v", err)
	}
	return &guestv1.ReportResponse{
		Report: e.Report, Certificates: e.Endorsements.Certificates, Crls: e.Endorsements.CRLs,
	}, nil
}

func (s *shim) serveReports(l net.Listener, r *reporter) (stop func()) {
	server := newGuestServer(maxReportRequest)
	guestv1.RegisterSimulatedTEEServiceServer(server, r)
	var served sync.WaitGroup
	served.Go(func() {
		// The session's port tells of a guest that can't be reached.
		if err := server.Serve(netutil.LimitListener(l, maxConnections)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.Log.Error("the simulated TEE can't be reached any more", "error", err)
		}
	})
	return func() {
		server.Stop()
		served.Wait()
	}
}
