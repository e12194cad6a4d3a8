package tsm

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// play is a kernel with configfs-tsm, as far as the tests need one.
type play struct {
	mu       sync.Mutex
	provider string // empty: there is no configfs-tsm
	floor    string // privlevel_floor; empty: the file is not there
	files    map[string][]byte
	requests map[string]*request
	made     int
	// mkdir, writing and reading fail so, the first times.
	mkdir   error
	writing map[string][]error
	reading map[string][]error
	// between is called when a report is read: somebody else's doing.
	between func(r *request)
	// report makes what outblob has.
	report func(data []byte) []byte
	aux    []byte
	log    []string
}

type request struct {
	generation int
	in         []byte
	level      string
}

func newPlay(provider string) *play {
	p := &play{
		provider: provider, files: map[string][]byte{}, requests: map[string]*request{}, writing: map[string][]error{}, reading: map[string][]error{},
		report: func(data []byte) []byte { return append([]byte("quote "), data...) },
	}
	if provider == "sev_guest" {
		p.floor, p.report = "2\n", snpReportOf
	}
	return p
}

// snpReportOf is a report that binds data, with a launch field.
func snpReportOf(data []byte) []byte {
	r := &snp.Report{Version: 3, SignatureAlgo: snp.SignatureECDSAP384, HostData: [32]byte{0xda}}
	copy(r.ReportData[:], data)
	return snp.Marshal(r)
}

func (p *play) next(errs map[string][]error, name string) error {
	list := errs[name]
	if len(list) == 0 {
		return nil
	}
	errs[name] = list[1:]
	if list[0] == nil {
		return nil
	}
	return &fs.PathError{Op: "call", Path: name, Err: list[0]}
}

func (p *play) Exists(name string) bool {
	_, ok := p.files[name]
	return ok
}

func (p *play) Mkdir(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if path.Dir(name) != reportsDir || p.provider == "" {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrNotExist}
	}
	if p.mkdir != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: p.mkdir}
	}
	if p.requests[name] != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	p.requests[name] = new(request)
	p.made++
	return nil
}

func (p *play) Remove(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.requests[name] == nil {
		return &fs.PathError{Op: "rmdir", Path: name, Err: fs.ErrNotExist}
	}
	delete(p.requests, name)
	return nil
}

func (p *play) Read(name string, max int) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dir, base := path.Split(name)
	p.log = append(p.log, "read "+base)
	if err := p.next(p.reading, base); err != nil {
		return nil, err
	}
	r := p.requests[strings.TrimSuffix(dir, "/")]
	if r == nil {
		b, ok := p.files[name]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		if len(b) > max {
			return nil, fmt.Errorf("%s has more than %d bytes", name, max)
		}
		return b, nil
	}
	switch {
	case base == "provider":
		return []byte(p.provider + "\n"), nil
	case base == "generation":
		return fmt.Appendf(nil, "%d\n", r.generation), nil
	case base == "privlevel_floor" && p.floor != "":
		return []byte(p.floor), nil
	case base == "outblob":
		if len(r.in) != attest.ReportDataSize {
			return nil, &fs.PathError{Op: "read", Path: name, Err: unix.EINVAL}
		}
		b := p.report(r.in)
		if p.between != nil {
			p.between(r)
		}
		return b, nil
	case base == "auxblob" && p.aux != nil:
		return p.aux, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (p *play) Write(name string, b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	dir, base := path.Split(name)
	p.log = append(p.log, fmt.Sprintf("write %s %d", base, len(b)))
	if err := p.next(p.writing, base); err != nil {
		return err
	}
	r := p.requests[strings.TrimSuffix(dir, "/")]
	if r == nil {
		if _, ok := p.files[name]; !ok {
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		p.files[name] = slices.Clone(b)
		return nil
	}
	switch base {
	case "inblob":
		r.in = slices.Clone(b)
	case "privlevel":
		if string(b) != strings.TrimSpace(p.floor) {
			return &fs.PathError{Op: "write", Path: name, Err: unix.EINVAL}
		}
		r.level = string(b)
	default:
		return &fs.PathError{Op: "write", Path: name, Err: fs.ErrPermission}
	}
	r.generation++
	return nil
}

// machine with the kernel p; its devices fail the test.
func (p *play) machine(t *testing.T) *machine {
	return &machine{
		files: p,
		snpReport: func(attest.ReportData) ([]byte, []byte, error) {
			t.Error("asked /dev/sev-guest")
			return nil, nil, syscall.ENOSYS
		},
		tdReport: func(attest.ReportData) ([]byte, error) {
			t.Error("asked /dev/tdx_guest")
			return nil, syscall.ENOSYS
		},
	}
}

// tdReportOf is a TDREPORT about data, with a launch field.
func tdReportOf(data attest.ReportData) []byte {
	b := make([]byte, tdReportSize)
	b[tdReportType] = tdTypeOfReport
	copy(b[tdReportData:], data[:])
	for i := range 48 {
		b[tdMRConfigID+i] = byte(i + 1)
	}
	sealTDInfo(b)
	return b
}

func sealTDInfo(b []byte) {
	sum := sha512.Sum384(b[tdInfo:])
	copy(b[tdInfoHash:], sum[:])
}

// tableOf is a certificate table with nothing that is a certificate.
func tableOf(data string) []byte {
	b := make([]byte, 48)
	b[0] = 1
	binary.LittleEndian.PutUint32(b[16:], 48)
	binary.LittleEndian.PutUint32(b[20:], uint32(len(data)))
	return append(b, data...)
}
