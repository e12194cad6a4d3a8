package tsm

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// at is what lies at an address that a request names.
func at[T any](address *uint64) *T { return *(**T)(unsafe.Pointer(address)) }

// firmware plays /dev/sev-guest.
type firmware struct {
	extended, plain error  // of the two requests
	status, size    uint32 // of the answer
	calls           []uintptr
}

func (f *firmware) call(t *testing.T) ioctl {
	return func(number uintptr, arg unsafe.Pointer) error {
		f.calls = append(f.calls, number)
		m := (*sevRequest)(arg)
		if m.version != 1 {
			t.Errorf("message version %d", m.version)
		}
		var asked [64]byte
		switch number {
		case sevGetExtReport:
			if f.extended != nil {
				return f.extended
			}
			r := at[sevExtRequest](&m.request)
			asked = r.data
			if r.tableSize != maxHostTable {
				t.Errorf("room for %d bytes of certificates", r.tableSize)
			}
			copy(at[[maxHostTable]byte](&r.table)[:], tableOf("x"))
		case sevGetReport:
			if f.plain != nil {
				m.firmware, m.host = 0x16, 2
				return f.plain
			}
			asked = at[sevReportRequest](&m.request).data
		}
		answer := at[sevResponse](&m.response)
		binary.LittleEndian.PutUint32(answer[:], f.status)
		binary.LittleEndian.PutUint32(answer[4:], f.size)
		copy(answer[32:], snpReportOf(asked[:]))
		return nil
	}
}

func TestAskSNP(t *testing.T) {
	for name, tt := range map[string]struct {
		firmware
		calls int
		table bool
		want  string
	}{
		"with certificates":   {firmware{size: snp.ReportSize}, 1, true, ""},
		"without":             {firmware{extended: unix.EIO, size: snp.ReportSize}, 2, false, ""},
		"neither":             {firmware{extended: unix.EIO, plain: unix.EBUSY}, 2, false, "SNP_GET_REPORT: device or resource busy (firmware error 0x16, host error 0x2)"},
		"refused":             {firmware{status: 0x16, size: snp.ReportSize}, 1, true, "status 0x16"},
		"another size":        {firmware{size: snp.ReportSize + 1}, 1, true, "1185 bytes"},
		"refused, plain form": {firmware{extended: unix.ENOTTY, status: 1, size: snp.ReportSize}, 2, false, "status 0x1"},
	} {
		report, table, err := askSNP(tt.call(t), data)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err == nil && (!bytes.Equal(report, snpReportOf(data[:])) || (table != nil) != tt.table || tt.table && !bytes.HasPrefix(table, tableOf("x"))) {
			t.Errorf("%s: report of %d bytes, table of %d", name, len(report), len(table))
		}
		if len(tt.firmware.calls) != tt.calls {
			t.Errorf("%s: %d calls", name, len(tt.firmware.calls))
		}
	}
}

func TestAskTDX(t *testing.T) {
	b, err := askTDX(func(number uintptr, arg unsafe.Pointer) error {
		r := (*tdxRequest)(arg)
		copy(r.report[:], tdReportOf(r.data))
		if number != tdxGetReport {
			return unix.ENOTTY
		}
		return nil
	}, data)
	if err != nil || !bytes.Equal(b, tdReportOf(data)) {
		t.Errorf("%v", err)
	}
	if _, err := askTDX(func(uintptr, unsafe.Pointer) error { return unix.EIO }, data); err == nil || !strings.Contains(err.Error(), "TDX_CMD_GET_REPORT0") {
		t.Errorf("%v", err)
	}
}

// The numbers of requests carry the sizes of what they point to.
func TestLayouts(t *testing.T) {
	for name, tt := range map[string]struct{ got, want uintptr }{
		"struct snp_guest_request_ioctl": {unsafe.Sizeof(sevRequest{}), sevGetReport >> 16 & 0x3fff},
		"the same":                       {unsafe.Sizeof(sevRequest{}), sevGetExtReport >> 16 & 0x3fff},
		"struct snp_report_req":          {unsafe.Sizeof(sevReportRequest{}), 96},
		"struct snp_ext_report_req":      {unsafe.Sizeof(sevExtRequest{}), 112},
		"its table":                      {unsafe.Offsetof(sevExtRequest{}.table), 96},
		"struct tdx_report_req":          {unsafe.Sizeof(tdxRequest{}), tdxGetReport >> 16 & 0x3fff},
	} {
		if tt.got != tt.want {
			t.Errorf("%s has %d bytes; want %d", name, tt.got, tt.want)
		}
	}
}

func TestDevicesThatAreNotThere(t *testing.T) {
	err := device(filepath.Join(t.TempDir(), "none"), func(ioctl) error {
		t.Error("called")
		return nil
	})
	if !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	// A file that is no such device: the kernel says so.
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = device(name, func(call ioctl) error {
		_, err := askTDX(call, data)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "TDX_CMD_GET_REPORT0") {
		t.Errorf("%v", err)
	}
}

func TestKernelFiles(t *testing.T) {
	dir, k := t.TempDir(), kernel{}
	folder, name := filepath.Join(dir, "a"), filepath.Join(dir, "a", "f")
	if err := k.Mkdir(folder); err != nil || !k.Exists(folder) || k.Exists(name) {
		t.Fatal(err)
	}
	if err := k.Write(name, []byte("x")); !os.IsNotExist(err) {
		t.Errorf("a file that was not there was made: %v", err)
	}
	if err := os.WriteFile(name, []byte("xxxx"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Write(name, []byte(" ab\n")); err != nil {
		t.Error(err)
	}
	if b, err := k.Read(name, 4); err != nil || string(b) != " ab\n" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := k.Read(name, 3); err == nil || b != nil || !strings.Contains(err.Error(), "more than 3 bytes") {
		t.Errorf("%q, %v", b, err)
	}
	if got, err := word(k, name); err != nil || got != "ab" {
		t.Errorf("%q, %v", got, err)
	}
	if err := k.Remove(name); err != nil || k.Exists(name) {
		t.Error(err)
	}
	if _, err := k.Read(name, 1); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}

func FuzzTDReport(f *testing.F) {
	f.Add(tdReportOf(data))
	f.Fuzz(func(t *testing.T, b []byte) {
		field, err := mrConfigID(b, data)
		if err == nil && (len(field) != 48 || !bytes.Equal(field, b[tdMRConfigID:][:48]) || attest.ReportData(b[tdReportData:][:64]) != data) {
			t.Errorf("%x of %x", field, b)
		}
	})
}
