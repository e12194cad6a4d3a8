package guest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
)

// reports is a host that answers as the test says.
type reports struct {
	guestv1.UnimplementedSimulatedTEEServiceServer
	answer func(attest.ReportData) (*guestv1.ReportResponse, error)
}

func (r *reports) Report(_ context.Context, req *guestv1.ReportRequest) (*guestv1.ReportResponse, error) {
	return r.answer(attest.ReportData(req.GetReportData()))
}

func simulated(t *testing.T, answer func(attest.ReportData) (*guestv1.ReportResponse, error)) *SimulatedTEE {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	guestv1.RegisterSimulatedTEEServiceServer(server, &reports{answer: answer})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	tee, err := NewSimulatedTEE(func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tee.Close()
		server.Stop()
		<-done
	})
	return tee
}

func TestSimulatedTEE(t *testing.T) {
	authority, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	field := [32]byte{1, 2, 3}
	right := func(data attest.ReportData) (*guestv1.ReportResponse, error) {
		e, err := authority.Report(data, [48]byte{4}, field)
		return &guestv1.ReportResponse{Report: e.Report, Certificates: e.Endorsements.Certificates}, err
	}
	tee := simulated(t, right)
	if got, err := tee.LaunchField(t.Context()); err != nil || !bytes.Equal(got, field[:]) || tee.Type() != attest.Sim {
		t.Errorf("launch field %x, %v", got, err)
	}
	data := attest.ReportData{7}
	e, err := tee.Attest(t.Context(), data)
	if err != nil || e.Type != attest.Sim || len(e.Endorsements.Certificates) != 2 {
		t.Errorf("evidence %+v, %v", e, err)
	}

	for name, tt := range map[string]struct {
		change func(*guestv1.ReportResponse) error
		want   string
	}{
		"refused":       {func(*guestv1.ReportResponse) error { return status.Error(codes.Internal, "no key") }, "no key"},
		"short":         {func(r *guestv1.ReportResponse) error { r.Report = r.Report[1:]; return nil }, "1183 bytes"},
		"nothing":       {func(r *guestv1.ReportResponse) error { r.Report = nil; return nil }, "0 bytes"},
		"replayed":      {func(r *guestv1.ReportResponse) error { r.Report[0x50] ^= 1; return nil }, "other report data"},
		"too much":      {func(r *guestv1.ReportResponse) error { r.Crls = [][]byte{make([]byte, maxReportAnswer)}; return nil }, "larger than max"},
		"another error": {func(*guestv1.ReportResponse) error { return errors.New("what?") }, "what?"},
	} {
		t.Run(name, func(t *testing.T) {
			tee := simulated(t, func(data attest.ReportData) (*guestv1.ReportResponse, error) {
				r, err := right(data)
				return r, errors.Join(err, tt.change(r))
			})
			if e, err := tee.Attest(t.Context(), data); err == nil || !strings.Contains(err.Error(), tt.want) || len(e.Report) > 0 {
				t.Errorf("Attest: %v; want %q in it", err, tt.want)
			}
			if f, err := tee.LaunchField(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) || f != nil {
				t.Errorf("LaunchField: %x, %v; want %q in it", f, err, tt.want)
			}
		})
	}
}

func TestSimulatedTEEWithoutAHost(t *testing.T) {
	tee, err := NewSimulatedTEE(func(context.Context) (net.Conn, error) { return nil, errors.New("nobody listens") })
	if err != nil {
		t.Fatal(err)
	}
	defer tee.Close()
	cause := errors.New("the test is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := tee.LaunchField(ctx); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
