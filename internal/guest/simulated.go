package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

const (
	// reportDeadline bounds one simulated report.
	reportDeadline = 30 * time.Second
	// maxReportAnswer bounds what the host may send with it, in bytes.
	maxReportAnswer = 64 << 10
)

// SimulatedTEE asks the host for reports. What it answers proves nothing, and
// whoever appraises it says so.
type SimulatedTEE struct {
	conn   *grpc.ClientConn
	client guestv1.SimulatedTEEServiceClient
}

var _ attest.Attester = (*SimulatedTEE)(nil)

// NewSimulatedTEE makes an attester that connects with dial when it is needed.
func NewSimulatedTEE(dial func(ctx context.Context) (net.Conn, error)) (*SimulatedTEE, error) {
	conn, err := grpc.NewClient("passthrough:///shim",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReportAnswer), grpc.WaitForReady(true)),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	)
	if err != nil {
		return nil, fmt.Errorf("simulated TEE: %w", err)
	}
	return &SimulatedTEE{conn, guestv1.NewSimulatedTEEServiceClient(conn)}, nil
}

// Close ends the connection.
func (s *SimulatedTEE) Close() error { return s.conn.Close() }

// Type implements attest.Attester.
func (*SimulatedTEE) Type() attest.Type { return attest.Sim }

// Attest implements attest.Attester.
func (s *SimulatedTEE) Attest(ctx context.Context, data attest.ReportData) (attest.Evidence, error) {
	e, _, err := s.report(ctx, data)
	return e, err
}

// LaunchField implements attest.Attester: HOST_DATA of a report of its own.
func (s *SimulatedTEE) LaunchField(ctx context.Context) ([]byte, error) {
	_, r, err := s.report(ctx, attest.Binding{Label: attest.ForLaunch}.ReportData())
	if err != nil {
		return nil, err
	}
	return r.HostData[:], nil
}

func (s *SimulatedTEE) report(ctx context.Context, data attest.ReportData) (attest.Evidence, *snp.Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, reportDeadline, fmt.Errorf("the host did not answer within %v", reportDeadline))
	defer cancel()
	answer, err := s.client.Report(ctx, &guestv1.ReportRequest{ReportData: data[:]})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return attest.Evidence{}, nil, fmt.Errorf("asking for a simulated report: %w", err)
	}
	r, err := snp.Parse(answer.GetReport())
	if err == nil && r.ReportData != data {
		err = errors.New("it has other report data than was asked for")
	}
	if err != nil {
		return attest.Evidence{}, nil, fmt.Errorf("simulated report: %w", err)
	}
	return attest.Evidence{
		Type: attest.Sim, Report: answer.GetReport(),
		Endorsements: attest.Endorsements{Certificates: answer.GetCertificates(), CRLs: answer.GetCrls()},
	}, r, nil
}
