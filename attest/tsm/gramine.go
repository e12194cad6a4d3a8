package tsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ultravioletrs/cocos/attest"
)

// Gramine's files for the enclave that it runs (its manual, "Attestation and
// Secret Provisioning").
const (
	gramineType  = "/dev/attestation/attestation_type"
	gramineData  = "/dev/attestation/user_report_data"
	gramineQuote = "/dev/attestation/quote"
)

// detectGramine is for processes in an SGX enclave.
func detectGramine(f files) (attest.Attester, error) {
	kind, err := word(f, gramineType)
	if err != nil {
		return nil, fmt.Errorf("asking Gramine for its attestation: %w", err)
	}
	if kind != "dcap" {
		return nil, fmt.Errorf("%s is %q; expected dcap: set sgx.remote_attestation = \"dcap\" in Gramine's manifest", gramineType, kind)
	}
	return &sgxAttester{files: f}, nil
}

// sgxAttester is SGX's, through Gramine.
type sgxAttester struct {
	files files
	mu    sync.Mutex // report data and quote are one pair of files
}

// Type implements attest.Attester.
func (*sgxAttester) Type() attest.Type { return attest.SGX }

// Attest implements attest.Attester.
func (a *sgxAttester) Attest(ctx context.Context, data attest.ReportData) (attest.Evidence, error) {
	if ctx.Err() != nil {
		return attest.Evidence{}, context.Cause(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.files.Write(gramineData, data[:]); err != nil {
		return attest.Evidence{}, fmt.Errorf("asking Gramine for a quote: %w", err)
	}
	quote, err := a.files.Read(gramineQuote, maxReport)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("asking Gramine for a quote: %w", err)
	}
	if !bytes.Contains(quote, data[:]) {
		return attest.Evidence{}, errOtherData
	}
	return attest.Evidence{Type: attest.SGX, Report: quote}, nil
}

// ErrNoLaunchField says that this kind of TEE has none.
var ErrNoLaunchField = errors.New("an SGX enclave has no launch field: what it was started for shows in report data alone")

// LaunchField implements attest.Attester; there is none.
func (*sgxAttester) LaunchField(context.Context) ([]byte, error) { return nil, ErrNoLaunchField }
