package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

const (
	eventCount    = 2000
	eventKind     = "bench.event" // what eventguest emits
	eventDeadline = 3 * time.Minute
	// eventRuns bounds the runs: each boots a VM.
	eventRuns = 3
	// diskParent is for files that outlive a restart: on a disk (FHS 3.0, 5.15).
	diskParent = "/var/tmp"
	// eventLine is about what a journal's line of an event has, in bytes.
	eventLine = 256
)

// events counts how many events per second pass from an agent in a VM through
// its shim and the Manager to the server, each on disk in the shim's spool
// before the agent hears of it and in the server's journal before the Manager
// does. Beside it: as many lines appended to a file, each with one fsync.
func events(ctx context.Context, l *lab) ([]row, error) {
	disk, err := os.MkdirTemp(diskParent, "cocos-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder on disk: %w", err)
	}
	rows, err := eventsOn(ctx, l, disk)
	return rows, errors.Join(err, os.RemoveAll(disk))
}

func eventsOn(ctx context.Context, l *lab, disk string) ([]row, error) {
	rootfs := l.path("events.cpio.gz")
	if err := packEventGuest(ctx, rootfs); err != nil {
		return nil, err
	}
	owner, err := l.newParty()
	if err != nil {
		return nil, err
	}
	m, err := owner.describe(strconv.Itoa(eventCount), manifest.Algorithm{Type: manifest.Binary, SHA256: sha256.Sum256([]byte("bench")), Size: 1})
	if err != nil {
		return nil, err
	}
	r := row{name: "events_per_second", unit: "1/s", reference: "lines appended to a file, one fsync each"}
	for i := range min(l.runs, eventRuns) {
		rate, err := eventsOnce(ctx, l, filepath.Join(disk, strconv.Itoa(i)), rootfs, m)
		if err != nil {
			return nil, err
		}
		r.values = append(r.values, rate)
		if rate, err = appendLines(filepath.Join(disk, "lines")); err != nil {
			return nil, err
		}
		r.referenceValues = append(r.referenceValues, rate)
	}
	return []row{r}, nil
}

// packEventGuest puts eventguest in the agent's place: an archive behind the
// image's own, whose files count.
func packEventGuest(ctx context.Context, out string) error {
	bin := out + ".init"
	if err := buildProgram(ctx, bin, "./test/bench/eventguest"); err != nil {
		return err
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	image, err := os.ReadFile(filepath.Join(imageDir, hal.InitrdFile))
	if err != nil {
		return fmt.Errorf("%w; run `make hal`", err)
	}
	// An archive that is not compressed begins at a multiple of four bytes.
	b := bytes.NewBuffer(append(image, make([]byte, -len(image)&3)...))
	if err := cpio.Write(b, []cpio.Entry{{Name: "init", Mode: 0o755, Data: program}}); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o600)
}

// eventsOnce boots one VM and returns the rate from its first event to its last,
// as the server commits them.
func eventsOnce(ctx context.Context, l *lab, dir, rootfs string, m manifest.Frozen) (rate float64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, eventDeadline, fmt.Errorf("not done within %v", eventDeadline))
	defer cancel()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	seen := newStopwatch(eventCount)
	s, err := startServer(dir, seen.watch)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	bin, err := l.qemu(ctx)
	if err != nil {
		return 0, err
	}
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	manager, err := l.startManager("manager", dir, s, bin,
		"MANAGER_QEMU_DISK_IMG_ROOTFS_FILE="+rootfs, "MANAGER_QEMU_HOST_FWD_AGENT="+strconv.Itoa(port))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, manager.stop()) }()

	runID := uuid.NewString()
	s.Submit(&managerv1.RunRequest{RunId: runID, Manifest: m.Raw})
	reply, _, err := s.Reply(ctx, runID)
	if err != nil {
		return 0, fmt.Errorf("%w; the Manager said: %s", err, manager.lastWords())
	}
	if faults := reply.GetRefusal().GetFaults(); len(faults) > 0 {
		return 0, fmt.Errorf("the Manager refused the run: %v", faults)
	}
	// A Manager leaves its VMs running: this one is stopped whatever comes.
	defer func() { err = errors.Join(err, s.end(context.WithoutCancel(ctx), runID)) }()
	select {
	case <-seen.done:
		return seen.rate(), nil
	case <-manager.done:
		return 0, fmt.Errorf("the Manager ended: %v: %s", manager.err, manager.lastWords())
	case <-ctx.Done():
		return 0, fmt.Errorf("%w; %d of %d events came; the Manager said: %s", context.Cause(ctx), seen.count(), eventCount, manager.lastWords())
	}
}

// startManager starts a Manager whose state lies in dir, with this QEMU.
func (l *lab) startManager(name, dir string, s *sampleServer, bin string, more ...string) (*process, error) {
	return l.start(name, append([]string{
		"MANAGER_GRPC_URL=" + s.address,
		"MANAGER_GRPC_SERVER_CA_CERTS=" + s.caFile,
		"MANAGER_STATE_DIR=" + filepath.Join(dir, "s"),
		"MANAGER_HTTP_ADDR=none",
		"MANAGER_IMAGE_DIR=" + imageDir,
		"MANAGER_QEMU_BIN_PATH=" + bin,
		"MANAGER_QEMU_VSOCK=user",
		"MANAGER_QEMU_HOST_FWD_ADDR=127.0.0.1",
	}, more...), managerBinary)
}

// stopwatch notes when the server has committed the first and the last event.
type stopwatch struct {
	total       int
	mu          sync.Mutex
	n           int
	first, last time.Time
	done        chan struct{} // closed with the last
}

func newStopwatch(total int) *stopwatch { return &stopwatch{total: total, done: make(chan struct{})} }

func (w *stopwatch) watch(e server.Entry) {
	if e.Kind != eventKind {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	w.last = time.Now()
	if w.n == 1 {
		w.first = w.last
	}
	if w.n == w.total {
		close(w.done)
	}
}

func (w *stopwatch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

func (w *stopwatch) rate() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return float64(w.n-1) / w.last.Sub(w.first).Seconds()
}

// sampleServer is the sample computations server in this process.
type sampleServer struct {
	*server.Server
	address string
	caFile  string
	cancel  context.CancelFunc
	served  chan error
}

func startServer(dir string, watch func(server.Entry)) (*sampleServer, error) {
	cert, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		return nil, err
	}
	s := &sampleServer{caFile: filepath.Join(dir, "ca.pem"), served: make(chan error, 1)}
	if err := os.WriteFile(s.caFile, ca, 0o600); err != nil {
		return nil, err
	}
	s.Server, err = server.New(server.Config{
		TLS:     &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}},
		Journal: filepath.Join(dir, "journal.jsonl"),
		Watch:   watch,
	})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() { s.served <- s.Serve(ctx, ln) }()
	return s, nil
}

// end ends a run's VM and waits until nothing is left of it.
func (s *sampleServer) end(ctx context.Context, runID string) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if err := s.Stop(runID); err != nil {
		return err
	}
	_, err := s.EventOfKind(ctx, runID, vm.EventRemoved)
	return err
}

func (s *sampleServer) stop() error {
	s.cancel()
	return <-s.served
}

// appendLines is the reference: lines per second, each on disk before the next.
func appendLines(name string) (rate float64, err error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
	line := append(bytes.Repeat([]byte("x"), eventLine-1), '\n')
	began := time.Now()
	for range eventCount {
		if _, err := f.Write(line); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return eventCount / time.Since(began).Seconds(), nil
}
