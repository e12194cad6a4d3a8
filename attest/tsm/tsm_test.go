package tsm

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/attest"
)

var data = attest.ReportData(bytes.Repeat([]byte{0xa5}, 64))

func TestDetect(t *testing.T) {
	for name, tt := range map[string]struct {
		provider string
		files    []string
		kind     attest.Type
		want     string // of the error
	}{
		"SEV-SNP":                 {"sev_guest", nil, attest.SNP, ""},
		"TDX":                     {"tdx_guest", []string{tdxDevice}, attest.TDX, ""},
		"TDX without its device":  {"tdx_guest", nil, "", tdxDevice + " is missing"},
		"an unknown provider":     {"arm_cca_guest", nil, "", `"arm_cca_guest" is not known`},
		"SEV-SNP, older kernel":   {"", []string{sevDevice}, attest.SNP, ""},
		"TDX, older kernel":       {"", []string{tdxDevice}, "", "TSM_REPORTS"},
		"SGX":                     {"", []string{gramineType}, attest.SGX, ""},
		"a VM before an enclave":  {"sev_guest", []string{gramineType}, attest.SNP, ""},
		"a machine without a TEE": {"", nil, "", ErrNone.Error()},
	} {
		p := newPlay(tt.provider)
		for _, f := range tt.files {
			p.files[f] = []byte("dcap\n")
		}
		a, err := detect(p.machine(t))
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, %v; want %q", name, a, err, tt.want)
			}
			if errors.Is(err, ErrNone) != (tt.want == ErrNone.Error()) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || a.Type() != tt.kind {
			t.Errorf("%s: %v, %v", name, a, err)
		}
		if len(p.requests) != 0 {
			t.Errorf("%s: left %v", name, p.requests)
		}
	}
	// configfs-tsm is there and no TEE is behind it: it counts as absent.
	p := newPlay("sev_guest")
	p.mkdir = unix.ENXIO
	if _, err := detect(p.machine(t)); !errors.Is(err, ErrNone) {
		t.Errorf("no TEE registered: %v", err)
	}
	// It is there and does not work: that is no machine without a TEE.
	for _, broken := range []error{fs.ErrPermission, unix.EIO} {
		p.mkdir = broken
		if _, err := detect(p.machine(t)); err == nil || errors.Is(err, ErrNone) || !errors.Is(err, broken) {
			t.Errorf("%v: %v", broken, err)
		}
	}
}

func attester(t *testing.T, p *play) attest.Attester {
	t.Helper()
	a, err := detect(p.machine(t))
	if err != nil {
		t.Fatal(err)
	}
	p.log = nil
	return a
}

func TestSNP(t *testing.T) {
	p := newPlay("sev_guest")
	a := attester(t, p)
	e, err := a.Attest(t.Context(), data)
	if err != nil || e.Type != attest.SNP || !bytes.Equal(e.Report, snpReportOf(data[:])) || len(e.Endorsements.Certificates) != 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	want := []string{"read generation", "read privlevel_floor", "write privlevel 1", "write inblob 64", "read outblob", "read auxblob", "read generation"}
	if !slices.Equal(p.log, want) {
		t.Errorf("calls %q", p.log)
	}
	field, err := a.LaunchField(t.Context())
	if err != nil || len(field) != 32 || field[0] != 0xda {
		t.Errorf("launch field %x, %v", field, err)
	}
	// A table that can't be read, or has nothing, is left out.
	for _, table := range [][]byte{{}, {1, 2, 3}, make([]byte, 4096), tableOf("no certificate")} {
		p.aux = table
		if e, err := a.Attest(t.Context(), data); err != nil || len(e.Endorsements.Certificates) != 0 {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if len(p.requests) != 0 {
		t.Errorf("left %v", p.requests)
	}
}

func TestReportsOfOthersAreRefused(t *testing.T) {
	other := attest.ReportData{1}
	for name, tt := range map[string]struct {
		provider string
		report   func([]byte) []byte
		want     string
	}{
		"SNP, other report data":  {"sev_guest", func([]byte) []byte { return snpReportOf(other[:]) }, "other report data"},
		"SNP, a short report":     {"sev_guest", func(d []byte) []byte { return snpReportOf(d)[1:] }, "the kernel's answer"},
		"SNP, nothing":            {"sev_guest", func([]byte) []byte { return nil }, "the kernel's answer"},
		"SNP, an unknown version": {"sev_guest", func(d []byte) []byte { b := snpReportOf(d); b[0] = 9; return b }, "version 9"},
		"TDX, other report data":  {"tdx_guest", func([]byte) []byte { return other[:] }, "other report data"},
		"TDX, nothing":            {"tdx_guest", func([]byte) []byte { return nil }, "other report data"},
	} {
		p := newPlay(tt.provider)
		p.files[tdxDevice] = nil
		a := attester(t, p)
		p.report = tt.report
		if e, err := a.Attest(t.Context(), data); err == nil || !strings.Contains(err.Error(), tt.want) || e.Report != nil {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
		if tt.provider == "sev_guest" {
			if field, err := a.LaunchField(t.Context()); err == nil || field != nil {
				t.Errorf("%s: launch field %x", name, field)
			}
		}
	}
}

func TestRequestsThatFail(t *testing.T) {
	always := func(err error) []error { return slices.Repeat([]error{err}, 2*attempts) }
	for name, tt := range map[string]struct {
		change func(p *play)
		tries  int    // requests made
		want   string // of the error; empty: it succeeds in the end
	}{
		"busy once":             {func(p *play) { p.writing["inblob"] = []error{unix.EBUSY} }, 2, ""},
		"not its turn, twice":   {func(p *play) { p.reading["outblob"] = []error{unix.EAGAIN, unix.EINTR} }, 3, ""},
		"busy on the level":     {func(p *play) { p.writing["privlevel"] = []error{unix.EBUSY} }, 2, ""},
		"always busy":           {func(p *play) { p.reading["outblob"] = always(unix.EBUSY) }, attempts, "asking the kernel for a report"},
		"changed once":          {func(p *play) { n := 0; p.between = func(r *request) { n++; r.generation += 1 / n } }, 2, ""},
		"changed always":        {func(p *play) { p.between = func(r *request) { r.generation++ } }, attempts, "changed while it was answered"},
		"no such device":        {func(p *play) { p.reading["outblob"] = always(unix.ENXIO) }, 1, "ENXIO"},
		"refused by firmware":   {func(p *play) { p.reading["outblob"] = always(unix.EIO) }, 1, "input/output"},
		"no right to write":     {func(p *play) { p.writing["inblob"] = always(fs.ErrPermission) }, 1, "permission"},
		"a level refused":       {func(p *play) { p.writing["privlevel"] = always(unix.EINVAL) }, 1, "invalid argument"},
		"a floor unreadable":    {func(p *play) { p.reading["privlevel_floor"] = always(unix.EIO) }, 1, "input/output"},
		"aux unreadable":        {func(p *play) { p.reading["auxblob"] = always(unix.EIO) }, 1, "input/output"},
		"generation unreadable": {func(p *play) { p.reading["generation"] = always(unix.EIO) }, 1, "input/output"},
	} {
		p := newPlay("sev_guest")
		a := attester(t, p)
		tt.change(p)
		p.made = 0
		_, err := a.Attest(t.Context(), data)
		want := tt.want
		if want == "ENXIO" {
			want = unix.ENXIO.Error()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
		if p.made != tt.tries || len(p.requests) != 0 {
			t.Errorf("%s: %d requests made, %d left; want %d", name, p.made, len(p.requests), tt.tries)
		}
	}
	p := newPlay("sev_guest")
	a := attester(t, p)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	p.made = 0
	if _, err := a.Attest(ctx, data); err == nil || err.Error() != "enough" || p.made != 0 {
		t.Errorf("%v after %d requests", err, p.made)
	}
}

// Those who ask at once get a report each, about what they asked for.
func TestAtOnce(t *testing.T) {
	a := attester(t, newPlay("sev_guest"))
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			d := attest.ReportData{byte(i)}
			if e, err := a.Attest(t.Context(), d); err != nil || !bytes.Equal(e.Report, snpReportOf(d[:])) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
}

func TestSNPByItsDevice(t *testing.T) {
	p := newPlay("")
	p.files[sevDevice] = nil
	m := p.machine(t)
	m.snpReport = func(d attest.ReportData) ([]byte, []byte, error) { return snpReportOf(d[:]), tableOf("x"), nil }
	a, err := detect(m)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := a.Attest(t.Context(), data); err != nil || !bytes.Equal(e.Report, snpReportOf(data[:])) {
		t.Errorf("%v", err)
	}
	if field, err := a.LaunchField(t.Context()); err != nil || field[0] != 0xda {
		t.Errorf("%x, %v", field, err)
	}
	m.snpReport = func(attest.ReportData) ([]byte, []byte, error) { return nil, nil, unix.EIO }
	if _, err := a.Attest(t.Context(), data); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), sevDevice) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.LaunchField(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestTDX(t *testing.T) {
	p := newPlay("tdx_guest")
	p.files[tdxDevice], p.files[eventLog] = nil, []byte("log")
	m := p.machine(t)
	answer := tdReportOf
	m.tdReport = func(d attest.ReportData) ([]byte, error) { return answer(d), nil }
	a, err := detect(m)
	if err != nil {
		t.Fatal(err)
	}
	e, err := a.Attest(t.Context(), data)
	if err != nil || e.Type != attest.TDX || string(e.EventLog) != "log" || !bytes.Contains(e.Report, data[:]) {
		t.Errorf("%+v, %v", e, err)
	}
	p.files[eventLog] = make([]byte, maxEventLog+1)
	if e, err := a.Attest(t.Context(), data); err != nil || e.EventLog != nil {
		t.Errorf("with a huge event log: %v", err)
	}
	// The launch field is never the quote's.
	p.log = nil
	field, err := a.LaunchField(t.Context())
	if err != nil || len(field) != 48 || field[0] != 1 || field[47] != 48 || len(p.log) != 0 {
		t.Errorf("%x, %v, calls %q", field, err, p.log)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"another type":           func(b []byte) []byte { b[tdReportType] = 0; return b },
		"other report data":      func(b []byte) []byte { b[tdReportData]++; return b },
		"another launch field":   func(b []byte) []byte { b[tdMRConfigID]++; return b },
		"another digest":         func(b []byte) []byte { b[tdInfoHash]++; return b },
		"a byte less":            func(b []byte) []byte { return b[:tdReportSize-1] },
		"a byte more":            func(b []byte) []byte { return append(b, 0) },
		"nothing":                func([]byte) []byte { return nil },
		"nothing but zero bytes": func([]byte) []byte { return make([]byte, tdReportSize) },
	} {
		answer = func(d attest.ReportData) []byte { return change(tdReportOf(d)) }
		if field, err := a.LaunchField(t.Context()); err == nil || field != nil || !strings.Contains(err.Error(), tdxDevice) {
			t.Errorf("%s: %x, %v", name, field, err)
		}
	}
	m.tdReport = func(attest.ReportData) ([]byte, error) { return nil, unix.EIO }
	if _, err := a.LaunchField(t.Context()); !errors.Is(err, unix.EIO) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.LaunchField(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestGramine(t *testing.T) {
	p := newPlay("")
	p.files[gramineType] = []byte("dcap\n")
	a := attester(t, p)
	if _, err := a.Attest(t.Context(), data); err == nil {
		t.Error("files that are not there gave a quote")
	}
	p.files[gramineData] = nil
	p.files[gramineQuote] = append([]byte("quote "), data[:]...)
	e, err := a.Attest(t.Context(), data)
	if err != nil || e.Type != attest.SGX || !bytes.Equal(p.files[gramineData], data[:]) {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := a.Attest(t.Context(), attest.ReportData{1}); err == nil || !strings.Contains(err.Error(), "other report data") {
		t.Errorf("a quote about other data: %v", err)
	}
	if field, err := a.LaunchField(t.Context()); !errors.Is(err, ErrNoLaunchField) || field != nil {
		t.Errorf("%x, %v", field, err)
	}
	for _, kind := range []string{"none", "epid", "", "dcap2"} {
		p.files[gramineType] = []byte(kind)
		if _, err := detect(p.machine(t)); err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "dcap") {
			t.Errorf("%q: %v", kind, err)
		}
	}
}
