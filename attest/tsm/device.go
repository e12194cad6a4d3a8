package tsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// The kernel's requests: include/uapi/linux/sev-guest.h and tdx-guest.h. The
// x/sys package has neither.
const (
	sevGetReport    = 0xc0205300 // _IOWR('S', 0, struct snp_guest_request_ioctl)
	sevGetExtReport = 0xc0205302 // _IOWR('S', 2, struct snp_guest_request_ioctl)
	tdxGetReport    = 0xc4405401 // _IOWR('T', 1, struct tdx_report_req)
)

// maxHostTable is SEV_FW_BLOB_MAX_SIZE, the most that the kernel takes, bytes.
const maxHostTable = 0x4000

type sevRequest struct {
	version           uint8
	_                 [7]byte
	request, response uint64 // addresses
	firmware, host    uint32 // errors
}

type sevReportRequest struct {
	data [64]byte
	_    uint32 // VMPL; 0, the highest
	_    [28]byte
}

type sevExtRequest struct {
	sevReportRequest
	table     uint64 // address
	tableSize uint32
	_         uint32
}

// sevResponse holds MSG_REPORT_RSP (AMD 56860, table 25).
type sevResponse [4000]byte

type tdxRequest struct {
	data   [64]byte
	report [tdReportSize]byte
}

// ioctl is the system call; a test plays the kernel.
type ioctl func(request uintptr, arg unsafe.Pointer) error

// device opens one for the time of a call.
func device(name string, call func(ioctl) error) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(call(func(request uintptr, arg unsafe.Pointer) error {
		for {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
			switch errno {
			case 0:
				return nil
			case unix.EINTR:
			default:
				return errno
			}
		}
	}), f.Close())
}

func snpReport(data attest.ReportData) (report, table []byte, err error) {
	err = device(sevDevice, func(call ioctl) error {
		report, table, err = askSNP(call, data)
		return err
	})
	return report, table, err
}

// askSNP asks for a report with the host's certificates, and for one without
// where that fails: a host need not have any.
func askSNP(call ioctl, data attest.ReportData) (report, table []byte, err error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	request, response, certificates := new(sevExtRequest), new(sevResponse), new([maxHostTable]byte)
	pins.Pin(request)
	pins.Pin(response)
	pins.Pin(certificates)
	request.data = data
	request.table, request.tableSize = address(certificates), maxHostTable
	message := &sevRequest{version: 1, request: address(request), response: address(response)}
	if err := call(sevGetExtReport, unsafe.Pointer(message)); err == nil {
		report, err = reportOf(response)
		return report, certificates[:], err
	}
	*response = sevResponse{}
	*message = sevRequest{version: 1, request: address(&request.sevReportRequest), response: address(response)}
	if err := call(sevGetReport, unsafe.Pointer(message)); err != nil {
		return nil, nil, fmt.Errorf("SNP_GET_REPORT: %w (firmware error %#x, host error %#x)", err, message.firmware, message.host)
	}
	report, err = reportOf(response)
	return report, nil, err
}

// address of what is pinned.
func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

func reportOf(response *sevResponse) ([]byte, error) {
	status, size := binary.LittleEndian.Uint32(response[:]), binary.LittleEndian.Uint32(response[4:])
	if status != 0 {
		return nil, fmt.Errorf("the firmware refused with status %#x", status)
	}
	if size != snp.ReportSize {
		return nil, fmt.Errorf("the firmware's report has %d bytes; expected %d", size, snp.ReportSize)
	}
	return append([]byte(nil), response[32:32+snp.ReportSize]...), nil
}

func tdReport(data attest.ReportData) (report []byte, err error) {
	err = device(tdxDevice, func(call ioctl) error {
		report, err = askTDX(call, data)
		return err
	})
	return report, err
}

func askTDX(call ioctl, data attest.ReportData) ([]byte, error) {
	request := &tdxRequest{data: data}
	if err := call(tdxGetReport, unsafe.Pointer(request)); err != nil {
		return nil, fmt.Errorf("TDX_CMD_GET_REPORT0: %w", err)
	}
	return request.report[:], nil
}
