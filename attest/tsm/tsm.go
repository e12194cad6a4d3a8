// Package tsm obtains evidence from the TEE of the machine that it runs on, in
// the guest: SEV-SNP and TDX through the kernel's configfs-tsm, with the
// kernel's devices where it has none, and SGX through Gramine's files.
//
// Invariants:
//   - A launch field comes from where the host can't forge it. An SNP report
//     comes from the security processor in a message that it encrypts for this
//     guest alone (VMPCK, AMD 56860, 8.26), and the kernel decrypts; the host
//     carries it and can't make one, so its signature need not be checked. On TDX
//     the field is read from TDREPORT, which the TDX module hands to the guest
//     without the host, never from a quote, which the host brings.
//   - Evidence that is about other report data than was asked for is an error:
//     two that ask at once never get each other's.
//   - A TEE that is there and does not work is an error. ErrNone is for machines
//     without one alone.
//
// A request takes as long as the platform does, a second or more where it limits
// the rate, and can't be interrupted: contexts are looked at before it begins.
package tsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// ErrNone says that this machine has no TEE that its kernel shows.
var ErrNone = errors.New("this machine has no TEE that gives evidence")

// Where the kernel and Gramine have it.
const (
	sevDevice = "/dev/sev-guest"
	tdxDevice = "/dev/tdx_guest"
	eventLog  = "/sys/firmware/acpi/tables/data/CCEL"
)

// Most that is read of a file, in bytes.
const (
	maxText     = 64
	maxReport   = 64 << 10
	maxEventLog = 64 << 10
)

// Detect finds the machine's TEE. The configuration file system must be mounted
// at /sys/kernel/config and the TEE's module loaded.
func Detect() (attest.Attester, error) {
	return detect(&machine{files: kernel{}, snpReport: snpReport, tdReport: tdReport})
}

// machine is what a kernel shows; a test plays it.
type machine struct {
	files
	// snpReport asks /dev/sev-guest for a report and the host's certificate table.
	snpReport func(data attest.ReportData) (report, table []byte, err error)
	// tdReport asks /dev/tdx_guest for a TDREPORT.
	tdReport func(data attest.ReportData) ([]byte, error)
}

func detect(m *machine) (attest.Attester, error) {
	c := &configfs{files: m.files}
	provider, err := c.provider()
	switch {
	case err == nil && provider == "sev_guest":
		return &snpAttester{ask: c.ask}, nil
	case err == nil && provider == "tdx_guest":
		if !m.Exists(tdxDevice) {
			return nil, fmt.Errorf("%s is missing: what this TD was launched for is read there", tdxDevice)
		}
		return &tdxAttester{machine: m, ask: c.ask}, nil
	case err == nil:
		return nil, fmt.Errorf("%s: the provider %q is not known; expected sev_guest or tdx_guest", reportsDir, provider)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENXIO):
		return nil, err // ENXIO: no TEE has registered with it
	}
	if m.Exists(sevDevice) {
		return &snpAttester{ask: m.askDevice}, nil
	}
	if m.Exists(tdxDevice) {
		return nil, fmt.Errorf("%s is there but not %s, through which quotes come: use a kernel with TSM_REPORTS (6.7 or later)", tdxDevice, reportsDir)
	}
	if m.Exists(gramineType) {
		return detectGramine(m.files)
	}
	return nil, ErrNone
}

// askDevice is the way of kernels without configfs-tsm.
func (m *machine) askDevice(ctx context.Context, data attest.ReportData) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, context.Cause(ctx)
	}
	report, table, err := m.snpReport(data)
	if err != nil {
		return answer{}, fmt.Errorf("asking %s for a report: %w", sevDevice, err)
	}
	return answer{report: report, aux: table}, nil
}

// ask asks for evidence that binds data.
type ask func(ctx context.Context, data attest.ReportData) (answer, error)

// answer is a report, and a certificate table where the host gives one.
type answer struct{ report, aux []byte }

// snpAttester is SEV-SNP's.
type snpAttester struct {
	ask ask
	mu  sync.Mutex
}

// Type implements attest.Attester.
func (*snpAttester) Type() attest.Type { return attest.SNP }

// Attest implements attest.Attester. A certificate table that can't be read is
// left out: a verifier can get the certificates elsewhere.
func (a *snpAttester) Attest(ctx context.Context, data attest.ReportData) (attest.Evidence, error) {
	_, got, err := a.report(ctx, data)
	if err != nil {
		return attest.Evidence{}, err
	}
	e := attest.Evidence{Type: attest.SNP, Report: got.report}
	if endorsements, err := snp.ParseCertTable(got.aux); err == nil {
		e.Endorsements = endorsements
	}
	return e, nil
}

// LaunchField implements attest.Attester.
func (a *snpAttester) LaunchField(ctx context.Context) ([]byte, error) {
	r, _, err := a.report(ctx, launchData())
	if err != nil {
		return nil, fmt.Errorf("reading what this VM was launched for: %w", err)
	}
	return r.HostData[:], nil
}

func (a *snpAttester) report(ctx context.Context, data attest.ReportData) (*snp.Report, answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got, err := a.ask(ctx, data)
	if err != nil {
		return nil, answer{}, err
	}
	r, err := snp.Parse(got.report)
	if err != nil {
		return nil, answer{}, fmt.Errorf("the kernel's answer: %w", err)
	}
	if r.ReportData != data {
		return nil, answer{}, errOtherData
	}
	return r, got, nil
}

var errOtherData = errors.New("the platform returned evidence about other report data than was asked for")

func launchData() attest.ReportData { return attest.Binding{Label: attest.ForLaunch}.ReportData() }

// tdxAttester is TDX's.
type tdxAttester struct {
	*machine
	ask ask
	mu  sync.Mutex
}

// Type implements attest.Attester.
func (*tdxAttester) Type() attest.Type { return attest.TDX }

// Attest implements attest.Attester. The TD's event log comes with it where the
// firmware left one.
func (a *tdxAttester) Attest(ctx context.Context, data attest.ReportData) (attest.Evidence, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got, err := a.ask(ctx, data)
	if err != nil {
		return attest.Evidence{}, err
	}
	if !bytes.Contains(got.report, data[:]) {
		return attest.Evidence{}, errOtherData
	}
	e := attest.Evidence{Type: attest.TDX, Report: got.report}
	if log, err := a.Read(eventLog, maxEventLog); err == nil {
		e.EventLog = log
	}
	return e, nil
}

// LaunchField implements attest.Attester.
func (a *tdxAttester) LaunchField(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b, err := a.tdReport(launchData())
	if err != nil {
		return nil, fmt.Errorf("reading what this TD was launched for: asking %s for a TDREPORT: %w", tdxDevice, err)
	}
	field, err := mrConfigID(b, launchData())
	if err != nil {
		return nil, fmt.Errorf("reading what this TD was launched for: TDREPORT of %s: %w", tdxDevice, err)
	}
	return field, nil
}

// word is a short text file's content.
func word(f files, name string) (string, error) {
	b, err := f.Read(name, maxText)
	return strings.TrimSpace(string(b)), err
}
